"""For each way in which a network stops Salus: what was found, what to do here, and a request for the network team.

The requests can be sent as they are. They name the coordinator's address and the proxy, which the network team must know, and
never a password, a patient or a hospital.
"""

from dataclasses import dataclass

from salus.common.doctor.peer import Peer
from salus.common.doctor.route import Proxy, Target
from salus.common.names import visible

WHAT = "Salus needs one outgoing connection: TCP to {place}, TLS 1.3 with certificates on both sides, not opened on the way."
NOBODY = "Give this text to the network team; nothing on this machine can mend it."


@dataclass(frozen=True)
class Words:
    """What is said about one cause."""

    found: str
    remedy: str = NOBODY
    network_team: str = ""


def words_of(cause: str, detail: str, target: Target, proxy: Proxy | None, ips: tuple[str, ...] = ()) -> Words:
    """Return what to say about a cause of `route.RouteError`."""
    place, needs = target.place, WHAT.format(place=target.place)
    where = f"the proxy {visible(proxy.place)}" if proxy else place
    if not proxy and ips:
        where += f" ({', '.join(ips[:4])})"
    match cause:
        case "dns-no-such-name":
            name = proxy.host if proxy else target.host
            return Words(
                f"The name {name} does not exist, says the name server of this machine.",
                "Check the spelling; if it is right, give this text to the network team.",
                f"Please let our servers resolve the name {name}: the answer is that it does not exist. {needs}",
            )
        case "dns-no-answer":
            return Words(
                f"No name server answers the question for {target.host}.",
                "Check the network cable and /etc/resolv.conf; if they are right, give this text to the network team.",
                f"Please let this machine reach a name server that knows {target.host}: no server answers. {needs}",
            )
        case "tcp-no-answer":
            return Words(
                f"No answer from {where}.",
                network_team=f"Please allow outgoing TCP from this machine to {where}: connection attempts get no answer, "
                f"as when a firewall drops them. {needs}",
            )
        case "tcp-refused":
            return Words(
                f"The connection to {where} is refused.",
                "Ask the coordinator whether its daemon runs; if it does, give this text to the network team.",
                f"Please allow outgoing TCP from this machine to {where}: the connection is refused, by the other end or by "
                f"a firewall that rejects it. {needs}",
            )
        case "tcp-no-route" | "tcp-failed":
            return Words(
                f"There is no way from this machine to {where}.",
                "Check the network settings of this machine; if they are right, give this text to the network team.",
                f"Please give this machine a route to {where}: the network is unreachable from it. {needs}",
            )
        case _:
            return _proxy_words(cause, detail, target, proxy) or _tls_words(cause, place, needs)


def _proxy_words(cause: str, detail: str, target: Target, proxy: Proxy | None) -> Words | None:
    place, needs = target.place, WHAT.format(place=target.place)
    here = visible(proxy.place) if proxy else ""
    variable = proxy.variable if proxy else detail
    match cause:
        case "proxy-unknown-kind":
            return Words(
                f"The environment variable {variable} does not name a proxy that Salus can use.",
                f"Set {variable} to http://HOST:PORT, or unset it, for the daemon too.",
                f"Please name a proxy that speaks HTTP CONNECT (no SOCKS), or allow a direct connection. {needs}",
            )
        case "proxy-asks-for-password" if proxy is not None:
            offered = visible(detail) or "no known method"
            basic = "basic" in detail.lower()
            known = bool(proxy.user or proxy.password)
            wrong = "does not accept the user and password in" if known else "asks for a password, and there is none in"
            remedy = (
                f"Set {variable} to http://USER:PASSWORD@{here} in the daemon's environment."
                if basic
                else "Salus speaks Basic only, and this proxy does not offer it: give this text to the network team."
            )
            return Words(
                f"The proxy {here} {wrong} {variable} (it offers: {offered}).",
                remedy,
                f"Please let this machine through the proxy {here} to {place}, without a password or with an account for "
                f"Basic authentication: it answers 407 and offers {offered}. {needs}",
            )
        case "proxy-forbids":
            return Words(
                f"The proxy {here} forbids connections to {place} (status {detail}).",
                network_team=f"Please allow CONNECT to {place} in the proxy {here}: it answers {detail}. {needs}",
            )
        case "proxy-failed":
            return Words(
                f"The proxy {here} cannot connect to {place} ({visible(detail)}).",
                "Ask the coordinator whether its daemon runs; if it does, give this text to the network team.",
                f"Please let the proxy {here} connect to {place}: it answers {visible(detail)}. {needs}",
            )
        case "proxy-not-http":
            return Words(
                f"What answers at {here} is not an HTTP proxy.",
                f"Check {variable} in the daemon's environment.",
                f"Please tell us host and port of the proxy for outgoing connections: {here} is none. {needs}",
            )
        case _:
            return None


def _tls_words(cause: str, place: str, needs: str) -> Words:
    match cause:
        case "not-tls":
            return Words(
                f"What answers at {place} does not speak TLS.",
                "Check the URL and port; if they are right, give this text to the network team.",
                f"Please let TLS to {place} through: something else answers, such as a login page. {needs}",
            )
        case "closed":
            return Words(
                f"The connection to {place} is closed during the TLS handshake.",
                network_team=f"Please let TLS 1.3 to {place} through: the connection is cut during the handshake, as by a "
                f"firewall that does not know the protocol or the certificates. {needs}",
            )
        case _:
            return Words(
                f"The TLS handshake with {place} fails.",
                network_team=f"Please let TLS 1.3 to {place} through unchanged: the handshake fails. {needs}",
            )


def intercepted(peer: Peer, target: Target) -> Words:
    """Return what to say when another authority than the consortium's issued the certificate that arrives."""
    return Words(
        f"The certificate that arrives from {target.place} was issued by {peer.issuer!r}, not by the consortium's authority: "
        "something on the way opens the connection.",
        "Give this text to the network team. Do not add that authority to this machine: it would not help. If nobody "
        "inspects TLS here, call the coordinator before anything else.",
        f"Please exempt {target.place} from TLS inspection: the certificate that arrives was issued by {peer.issuer!r} "
        f"({peer.tls}). Both sides prove themselves with certificates of their own authority, so an inspected connection can "
        f"never work. {WHAT.format(place=target.place)}",
    )
