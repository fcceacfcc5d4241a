"""What `salus doctor` checks at the coordinator: what its own port shows, and whether hospitals can reach it."""

import socket
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from pydantic import BaseModel

from salus.common.clock import Clock
from salus.common.doctor.findings import Finding, Report, skipped
from salus.common.doctor.machine import machine
from salus.common.doctor.membership import Membership, membership
from salus.common.doctor.network import Way, way_to
from salus.common.errors import ConfigError, SalusError
from salus.common.lock import is_running
from salus.common.strict import load_toml
from salus.server.admin_client import AdminClient
from salus.server.config import ServerConfig

LATER = "Not tried: an earlier step failed."


def examine(
    folder: Path, clock: Clock, environment: Mapping[str, str], *, url: str = "", job: Path | None = None
) -> Report:
    """Check a coordinator.

    Args:
        url: under which the sites reach it; empty: the one on the roster.
        job: a job file to check against the roster.
    """
    found, config = _settings(folder)
    kit, member = membership(folder, "coordinator", clock.now())
    running = is_running(folder)
    found += [*kit, *machine(folder, "coordinator", ""), _daemon(folder, config, running)]
    status = _status(folder) if running else None
    found.append(_sites(status))
    found += _seen_from_here(member, environment, clock, url, running)
    if job is not None:
        from salus.server.doctor_job import job_checks

        found += job_checks(job, member.roster.site_ids() if member else ())
    return Report.of("coordinator", found)


def settings_of(folder: Path) -> dict[str, BaseModel]:
    """Return the settings that can be read, by file name."""
    _, config = _settings(folder)
    return {"server.toml": config} if config is not None else {}


def _settings(folder: Path) -> tuple[list[Finding], ServerConfig | None]:
    try:
        config = load_toml(ServerConfig, folder / "server.toml", error=ConfigError, what="server file")
    except SalusError as problem:
        return [Finding("folder", "failed", problem.problem, "unreadable", problem.remedy)], None
    return [Finding("folder", "ok", "The settings in server.toml can be read.")], config


def _daemon(folder: Path, config: ServerConfig | None, running: bool) -> Finding:
    """Return whether the daemon runs; if it does not, whether it could listen."""
    values = {"running": running}
    if running:
        return Finding("daemon", "ok", "The daemon is running.", values=values)
    start = "Start it: salus server start FOLDER."
    if config is None:
        return Finding("daemon", "notice", "The daemon is not running.", "not-running", start, values=values)
    try:
        family = socket.AF_INET6 if ":" in config.listen else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.listen, config.port))
    except OSError as problem:
        taken = problem.errno == 98
        text = f"The daemon is not running, and could not listen on {config.listen}, port {config.port}."
        remedy = "Another program has the port: stop it, or change port in server.toml." if taken else (
            "Check listen and port in server.toml; ports below 1024 need a right of their own."
        )  # fmt: skip
        return Finding("daemon", "failed", text, "port-taken" if taken else "cannot-listen", remedy, values=values)
    text = f"The daemon is not running; it could listen on {config.listen}, port {config.port}."
    return Finding("daemon", "notice", text, "not-running", start, values=values)


def _status(folder: Path) -> dict[str, object] | None:
    try:
        found = AdminClient(folder).get("/status")
    except SalusError:
        return None
    return found if isinstance(found, dict) else None


def _sites(status: dict[str, object] | None) -> Finding:
    if status is None:
        return skipped("sites", "The daemon must run to know which sites are online.")
    sites = status.get("sites")
    listed = [site for site in sites if isinstance(site, dict)] if isinstance(sites, list) else []
    online = [site for site in listed if site.get("online")]
    values = {"sites": len(listed), "online": len(online)}
    text = f"{len(online)} of {len(listed)} sites are online."
    if len(online) < len(listed):
        away = ", ".join(str(site.get("name")) for site in listed if not site.get("online"))
        remedy = f"Away: {away}. Their operators find the reason with `salus doctor`."
        return Finding("sites", "notice", text, "waits", remedy, values=values)
    return Finding("sites", "ok", text, values=values)


def _seen_from_here(
    member: Membership | None, environment: Mapping[str, str], clock: Clock, url: str, running: bool
) -> list[Finding]:
    """Return what answers under the URL that is on the roster: it must be this coordinator, with its own certificate."""
    steps = ("dns", "connection", "tls")
    if member is None:
        return [skipped(step, LATER) for step in steps]
    url = url or member.roster.coordinator.url
    if not running:
        return [skipped(step, "The daemon must run to be reached.") for step in steps]
    way: Way = way_to(url, member.authority, environment, clock.now())
    installed = member.certificate.public_bytes(serialization.Encoding.DER)
    found = [finding for finding in way.findings if finding.status != "ok" or finding.check != "proxy"]
    if way.peer is not None and way.peer.ours and way.peer.certificate != installed:
        text = "Another certificate than this folder's answers under the coordinator's URL."
        remedy = (
            "A running daemon takes a new kit with salus server join; check that name and port lead to this machine."
        )
        found = [finding for finding in found if finding.check != "tls"]
        found.append(Finding("tls", "failed", text, "other-certificate", remedy))
    return found
