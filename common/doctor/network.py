"""The checks of the way to the coordinator, in order; the first that fails makes those after it pointless."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from salus.common.doctor.findings import Finding, skipped
from salus.common.doctor.peer import Peer, look
from salus.common.doctor.route import STEP_S, Proxy, RouteError, Target, addresses, dial, proxy_of, within
from salus.common.doctor.sentences import intercepted, words_of
from salus.common.names import visible

STEPS = ("proxy", "dns", "connection", "tls")
CHECK_OF = {"dns": "dns", "proxy": "proxy", "tcp": "connection", "tls": "tls", "not": "tls", "closed": "tls"}


@dataclass(frozen=True)
class Way:
    """What was found on the way to the coordinator.

    Args:
        peer: who answered there; None if nobody did.
        open: whether nothing stands in the way of the daemon's connection.
    """

    findings: tuple[Finding, ...]
    peer: Peer | None
    open: bool


def way_to(url: str, authority: x509.Certificate | None, environment: Mapping[str, str], now: datetime) -> Way:
    """Try the way to the coordinator.

    Args:
        authority: the consortium's; None before a kit is installed.
    """
    target = Target.of(url)
    found: list[Finding] = []
    proxy: Proxy | None = None
    ips: tuple[str, ...] = ()
    peer: Peer | None = None
    try:
        proxy = proxy_of(target, environment)
        found.append(_proxy(proxy))
        if proxy is None:
            ips = tuple(addresses(target.host, target.port))
            text = (
                f"{target.host} is {', '.join(ips[:4])}."
                if ips != (target.host,)
                else "An address needs no name server."
            )
            found.append(Finding("dns", "ok", text, values={"addresses": len(ips)}))
        else:
            found.append(Finding("dns", "ok", f"The proxy resolves {target.host}.", values={"addresses": 0}))
        connection = within(STEP_S, lambda: dial(target, proxy), "proxy-failed" if proxy else "tcp-no-answer")
        found.append(Finding("connection", "ok", f"{target.place} answers{' through the proxy' if proxy else ''}."))
        peer = within(STEP_S, lambda: look(connection, target.host, authority), "closed")
    except RouteError as problem:
        words = words_of(problem.cause, problem.detail, target, proxy, ips)
        check = CHECK_OF[problem.cause.partition("-")[0]]
        found = [finding for finding in found if finding.check != check]
        found.append(Finding(check, "failed", words.found, problem.cause, words.remedy, words.network_team))
    else:
        found.append(_tls(peer, target, authority, now))
    known = {finding.check for finding in found}
    found += [skipped(step, "Not tried: an earlier step failed.") for step in STEPS if step not in known]
    return Way(tuple(found), peer, all(finding.status in ("ok", "notice") for finding in found))


def _proxy(proxy: Proxy | None) -> Finding:
    if proxy is None:
        return Finding("proxy", "ok", "No proxy is set in the environment of this command.", values={"used": False})
    account = "with a user and password" if proxy.user or proxy.password else "without a password"
    return Finding(
        "proxy",
        "ok",
        f"{visible(proxy.place)}, from {proxy.variable}, {account}. The daemon needs the same variable.",
        values={"used": True, "account": bool(proxy.user or proxy.password)},
    )


def _tls(peer: Peer, target: Target, authority: x509.Certificate | None, now: datetime) -> Finding:
    values = {"version": peer.tls, "days_left": (peer.not_after - now).days}
    if authority is None:
        text = f"The certificate that arrives was issued by {peer.issuer!r}; without a kit it cannot be checked."
        remedy = "Compare the name with the consortium's; install the kit and run this again."
        return Finding("tls", "notice", text, "not-joined", remedy, values=values)
    if not peer.ours:
        words = intercepted(peer, target)
        return Finding("tls", "failed", words.found, "intercepted", words.remedy, words.network_team, values)
    if not peer.names_host:
        text = f"The coordinator's certificate is of the consortium, but not for the host {target.host}."
        remedy = "Call the consortium: the coordinator's kit must be issued for the URL on the roster."
        return Finding("tls", "failed", text, "wrong-host", remedy, values=values)
    if not peer.not_before <= now <= peer.not_after:
        text = (
            f"The coordinator's certificate is valid from {peer.not_before:%Y-%m-%d} to {peer.not_after:%Y-%m-%d}, "
            f"and the clock of this machine says {now:%Y-%m-%d}."
        )
        remedy = "Correct the clock; if it is right, call the coordinator, who must install a new kit."
        return Finding("tls", "failed", text, "expired", remedy, values=values)
    text = f"The certificate of the consortium arrives untouched ({peer.tls}, valid until {peer.not_after:%Y-%m-%d})."
    return Finding("tls", "ok", text, values=values)
