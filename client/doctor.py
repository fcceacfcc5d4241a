"""What `salus doctor` checks at a site. It reads, asks and measures; it changes nothing here, and nothing at the coordinator."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel

from salus.client.config import SiteConfig
from salus.client.policy import load_policy
from salus.common.certificates import client_context
from salus.common.clock import Clock
from salus.common.doctor.asking import Asker
from salus.common.doctor.daemon import last_link
from salus.common.doctor.findings import Finding, Report, skipped
from salus.common.doctor.link import Line, link_checks, no_link
from salus.common.doctor.machine import machine
from salus.common.doctor.membership import Membership, membership
from salus.common.doctor.network import STEPS, way_to
from salus.common.errors import ConfigError, IdentityError, SalusError
from salus.common.identity import load_private_key
from salus.common.kit import NODE_KEY, TRANSPORT_KEY
from salus.common.lock import is_running
from salus.common.strict import load_toml
from salus.common.trust import AUTHORITY, CERTIFICATE, TRUST

LATER = "Not tried: an earlier step failed."


def examine(
    folder: Path, clock: Clock, environment: Mapping[str, str], *, url: str = "", job: Path | None = None
) -> Report:
    """Check a site.

    Args:
        environment: of this process, where the proxy is set.
        url: the coordinator's, to try the network before a kit is installed; empty: the one on the roster.
        job: a job file to compare with this site.
    """
    config, found = _settings(folder)
    kit, member = membership(folder, "site", clock.now())
    found += kit
    network, line = _network(folder, clock, environment, url, member)
    found += [*network, *machine(folder, "site", config.performance.device), _daemon(folder)]
    from salus.client.doctor_data import data_checks

    found += data_checks(folder, config, clock, job, len(member.roster.sites) if member else 0, line)
    return Report.of("site", found)


def settings_of(folder: Path) -> dict[str, BaseModel]:
    """Return the settings that can be read, by file name."""
    found: dict[str, BaseModel] = {}
    with contextlib.suppress(SalusError):
        found["site.toml"] = load_toml(SiteConfig, folder / "site.toml", error=ConfigError, what="site file")
    with contextlib.suppress(SalusError):
        found["policy.toml"] = load_policy(folder / "policy.toml")
    return found


def _settings(folder: Path) -> tuple[SiteConfig, list[Finding]]:
    found = []
    config = SiteConfig()
    try:
        config = load_toml(SiteConfig, folder / "site.toml", error=ConfigError, what="site file")
        found.append(Finding("folder", "ok", "The settings in site.toml can be read."))
    except SalusError as problem:
        found.append(Finding("folder", "failed", problem.problem, "unreadable", problem.remedy))
    try:
        load_policy(folder / "policy.toml")
        found.append(Finding("policy", "ok", "The rules in policy.toml can be read."))
    except SalusError as problem:
        remedy = f"{problem.remedy} Until then this site refuses every job."
        found.append(Finding("policy", "failed", problem.problem, "unreadable", remedy))
    return config, found


def _network(
    folder: Path, clock: Clock, environment: Mapping[str, str], url: str, member: Membership | None
) -> tuple[list[Finding], Line | None]:
    """Return the findings of everything on the way to the coordinator, and how fast the line is."""
    url = url or (member.roster.coordinator.url if member else "")
    if not url:
        because = "Without a kit nobody knows where the coordinator is; --url tries an address."
        return [*(skipped(step, because) for step in STEPS), *no_link()], None
    way = way_to(url, member.authority if member else None, environment, clock.now())
    if member is None or not way.open:
        return [*way.findings, *no_link()], None
    trust = folder / TRUST
    try:
        node = load_private_key(folder / "keys" / NODE_KEY)
        if not isinstance(node, ec.EllipticCurvePrivateKey):
            raise IdentityError("Expected an elliptic-curve node key.", remedy="Restore it from a backup.")
        tls = client_context(trust / AUTHORITY, trust / CERTIFICATE, folder / "keys" / TRANSPORT_KEY)
    except SalusError as problem:
        keys = Finding("link", "failed", problem.problem, "wrong-key", problem.remedy)
        return [*way.findings, keys, *no_link()[1:]], None
    with Asker(url, tls, node, clock) as asker:
        found, line = link_checks(asker, member.roster.serial)
    return [*way.findings, *found], line


def _daemon(folder: Path) -> Finding:
    running = is_running(folder)
    last = last_link(folder / "events.jsonl") if running else ""
    values = {"running": running, "link": last}
    if not running:
        text = "The daemon is not running."
        return Finding("daemon", "notice", text, "not-running", "Start it: salus client start FOLDER.", values=values)
    if last == "outdated":
        text = "The daemon is running and waits: this site's Salus is too old for the coordinator."
        remedy = "Install the newest version and start the daemon again; see docs/upgrade.md."
        return Finding("daemon", "failed", text, "older-site", remedy, values=values)
    if last == "disconnected":
        text = "The daemon is running, but is not connected; it keeps trying."
        return Finding("daemon", "failed", text, "not-connected", "See the checks of the network.", values=values)
    return Finding("daemon", "ok", "The daemon is running.", values=values)
