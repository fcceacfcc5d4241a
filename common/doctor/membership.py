"""The installed kit of a member: roster, dates and certificate, read without the refusals of a daemon's start."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from salus.common.doctor.findings import Finding, skipped
from salus.common.errors import IdentityError, SalusError
from salus.common.identity import Identity, unhex
from salus.common.kit import SIGNING_KEY, read_kit
from salus.common.roster import Roster, read_roster
from salus.common.trust import KIT, TRUST

WARN_DAYS = 30
RENEWAL = {
    "site": "While the daemon is connected, a new roster and certificate come by themselves. If they do not, ask the consortium.",
    "coordinator": "Ask the consortium to issue a new roster, and install its kit: salus server join FOLDER KIT.",
}  # before the end; after it, a member cannot connect, and installs a kit by hand
JOIN = {"site": "salus client join", "coordinator": "salus server join"}


@dataclass(frozen=True)
class Membership:
    """What is installed.

    Args:
        roster: the newest that is installed, its signature checked and its dates not.
    """

    roster: Roster
    authority: x509.Certificate
    certificate: x509.Certificate


def membership(folder: Path, role: str, now: datetime) -> tuple[list[Finding], Membership | None]:
    """Return the findings about a member's kit and keys, and the kit if it can be used at all."""
    if not (folder / TRUST / KIT).exists():
        text = "No kit of a consortium is installed here yet."
        remedy = f"Install the kit that the consortium sends: {JOIN[role]} FOLDER KIT."
        joined = Finding("roster", "failed", text, "not-joined", remedy)
        return [joined, skipped("certificate", "There is none before a kit is installed.")], None
    try:
        kit = read_kit(folder / TRUST / KIT)
        roster = read_roster(kit.roster, unhex(kit.consortium_key))
        authority = x509.load_pem_x509_certificate(kit.authority.encode())
        certificate = x509.load_pem_x509_certificate(kit.certificate.encode())
    except SalusError as problem:
        unreadable = Finding("roster", "failed", problem.problem, "unreadable", problem.remedy)
        return [unreadable, skipped("certificate", "The kit cannot be read.")], None
    except ValueError:
        remedy = "Ask the consortium for a new kit and install it."
        unreadable = Finding("certificate", "failed", "A certificate of the kit is damaged.", "unreadable", remedy)
        return [unreadable, skipped("roster", "The kit cannot be read.")], None
    return [_roster(folder, role, roster, now), _certificate(role, certificate, now)], Membership(
        roster, authority, certificate
    )


def _roster(folder: Path, role: str, roster: Roster, now: datetime) -> Finding:
    values = {"serial": roster.serial, "sites": len(roster.sites), "days_left": (roster.valid_until - now).days}
    try:
        own = Identity.load(folder / "keys" / SIGNING_KEY).public_key.hex()
        known = [roster.coordinator.public_key] if role == "coordinator" else [s.public_key for s in roster.sites]
        if own not in known:
            raise IdentityError(
                f"This folder's key is not on roster {roster.serial}.",
                remedy="Send this member's request to the consortium again, and install the kit that comes back.",
            )
        roster.check_dates(now)
    except SalusError as problem:
        cause = "expired" if "valid from" in problem.problem else "wrong-key"
        return Finding("roster", "failed", problem.problem, cause, problem.remedy, values=values)
    warning = roster.warning(now)
    if warning:
        return Finding("roster", "notice", warning, "ends-soon", RENEWAL[role], values=values)
    text = f"Roster {roster.serial} with {len(roster.sites)} sites, valid until {roster.valid_until:%Y-%m-%d}."
    return Finding("roster", "ok", text, values=values)


def _certificate(role: str, certificate: x509.Certificate, now: datetime) -> Finding:
    ends = certificate.not_valid_after_utc
    values = {"days_left": (ends - now).days}
    if not certificate.not_valid_before_utc <= now <= ends:
        text = (
            f"This member's certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to {ends:%Y-%m-%d}, and the "
            f"clock says {now:%Y-%m-%d}."
        )
        remedy = "Correct the clock; if it is right, ask the consortium for a new kit."
        return Finding("certificate", "failed", text, "expired", remedy, values=values)
    if (ends - now).days < WARN_DAYS:
        text = f"This member's certificate ends on {ends:%Y-%m-%d}."
        return Finding("certificate", "notice", text, "ends-soon", RENEWAL[role], values=values)
    return Finding("certificate", "ok", f"Valid until {ends:%Y-%m-%d}.", values=values)
