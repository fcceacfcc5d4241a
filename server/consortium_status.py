"""The state of a consortium in plain values: members, dates, what changes with the next roster, and who has fetched which."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from salus.common.identity import fingerprint, unhex
from salus.common.kit import MemberRequest
from salus.common.roster import WARN_BEFORE, Roster
from salus.common.words import fingerprint_words
from salus.server.consortium import Consortium
from salus.server.fetched import Fetched

LISTED, ADDED, REKEYED = "listed", "added since", "new keys since"


def status_of(consortium: Consortium, fetched: Mapping[int, Fetched], now: datetime) -> dict[str, Any]:
    """Return what `salus consortium status --json` prints.

    Args:
        fetched: what the coordinator has heard from the sites; empty if it is not known here.
    """
    state, roster = consortium.state, consortium.newest_roster()
    until = consortium.authority_until()
    coordinator = None
    if state.coordinator is not None:
        key = roster.coordinator.public_key if roster else None
        coordinator = {**_member(state.coordinator, key, roster, state.serial), "url": state.coordinator.url}
    keys = {site.id: site.public_key for site in roster.sites} if roster else {}
    sites = [
        {
            "site": m.id,
            **_member(m.request, keys.get(m.id), roster, state.serial),
            **_fetched(fetched.get(m.id)),
        }
        for m in state.sites
    ]
    members = {member.id for member in state.sites}
    removed = [{"site": s.id, "name": s.name} for s in roster.sites if s.id not in members] if roster else []
    values = {
        "consortium": state.name,
        "fingerprint": fingerprint(consortium.public_key),
        "words": fingerprint_words(consortium.public_key),
        "serial": state.serial,
        "valid_from": roster.valid_from.isoformat() if roster else None,
        "valid_until": roster.valid_until.isoformat() if roster else None,
        "authority_valid_until": until.isoformat(),
        "coordinator": coordinator,
        "sites": sites,
        "removed": removed,
    }
    return {**values, "to_do": to_do(values, roster, until, now)}


def to_do(values: Mapping[str, Any], roster: Roster | None, authority_until: datetime, now: datetime) -> list[str]:
    """Return what somebody has to do, in sentences; empty if nothing."""
    found = []
    members = [*([values["coordinator"]] if values["coordinator"] else []), *values["sites"]]
    changed = any(member["roster"] in (ADDED, REKEYED) for member in members) or bool(values["removed"])
    if values["serial"] == 0:
        found.append("No roster has been issued yet: salus consortium issue.")
    elif roster is None:
        found.append("An older version of Salus issued the roster: its dates are shown after the next issue.")
    elif roster.valid_until <= now:
        found.append("The roster has expired: run salus consortium issue, and give every member its kit by hand.")
    elif roster.valid_until - now <= WARN_BEFORE:
        found.append(
            f"The roster and all certificates end on {roster.valid_until:%Y-%m-%d}: run salus consortium issue."
        )
    if changed and values["serial"]:
        found.append("Members changed since the newest roster; it takes effect after salus consortium issue.")
    if authority_until - now <= 4 * WARN_BEFORE:
        found.append(f"The TLS authority ends on {authority_until:%Y-%m-%d}; certificates cannot end later.")
    behind = [str(site["name"]) for site in values["sites"] if site["fetched"] not in (None, values["serial"])]
    if behind:
        found.append(f"Not all sites have fetched roster {values['serial']}: {', '.join(behind)}.")
    return found


def _member(request: MemberRequest, listed: str | None, roster: Roster | None, issued: int) -> dict[str, Any]:
    state = LISTED if listed == request.public_key else ADDED if listed is None else REKEYED
    if roster is None:
        state = "unknown" if issued else "not yet"
    key = unhex(request.public_key)
    return {
        "name": request.name,
        "fingerprint": fingerprint(key),
        "words": fingerprint_words(key),
        "roster": state,
    }


def _fetched(known: Fetched | None) -> dict[str, Any]:
    if known is None:
        return {"fetched": None, "fetched_at": None, "problem": ""}
    return {"fetched": known.serial, "fetched_at": known.at.isoformat(), "problem": known.problem}
