"""The roster: the consortium's signed list of its members with every key, pinned at every site.

A site's id is a number that the consortium never reuses, so a roster may have gaps. The consortium's key signs the roster,
and the coordinator cannot change it. The roster also names the TLS authority by its hash, because anyone who could replace
the authority in transit could otherwise decide who may connect.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from salus.common.canonical import canonical_json
from salus.common.clock import Clock
from salus.common.errors import RosterError
from salus.common.identity import PUBLIC_KEY_BYTES, Identity, Signed, unhex
from salus.common.names import DisplayName, name_key
from salus.common.strict import Strict, validate

CONTEXT = "salus/roster/2"
WARN_BEFORE = timedelta(days=30)  # long enough to issue a new one, and for hospitals that are away to come back for it
MAX_SITES = 10_000  # ids are never reused, so this also limits how many sites can ever join
HexKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SiteId = Annotated[int, Field(ge=1, le=MAX_SITES)]


class RosterSite(Strict):
    """One hospital: its id and name, its Ed25519 key and the key of its transport node (PEM, public)."""

    id: SiteId
    name: DisplayName
    public_key: HexKey
    node_key: Annotated[str, Field(min_length=1, max_length=2000)]


class RosterCoordinator(Strict):
    """The coordinator: its URL and the Ed25519 key that signs its jobs."""

    name: DisplayName
    url: Annotated[str, Field(pattern=r"^https://[^\s/]+$", max_length=300)]
    public_key: HexKey


class Roster(Strict):
    """All members of the consortium, valid between two dates.

    Args:
        format: version of this format.
        serial: number of the roster; newer rosters have larger numbers.
        authority_sha256: SHA-256, in hex, of the certificate (DER) of the consortium's TLS authority.
        sites: all sites, by ascending id.
    """

    newest_format: ClassVar[int] = 1

    format: Literal[1] = 1
    consortium: DisplayName
    serial: Annotated[int, Field(ge=1)]
    valid_from: AwareDatetime
    valid_until: AwareDatetime
    authority_sha256: HexKey
    coordinator: RosterCoordinator
    sites: Annotated[tuple[RosterSite, ...], Field(max_length=MAX_SITES)]

    @model_validator(mode="after")
    def _everyone_once(self) -> Self:
        keys = [site.public_key for site in self.sites] + [self.coordinator.public_key]
        nodes = [site.node_key for site in self.sites]
        names = [name_key(site.name) for site in self.sites]
        if len(set(keys)) != len(keys) or len(set(nodes)) != len(nodes) or len(set(names)) != len(names):
            raise ValueError("expected every name and every key at most once")
        if list(self.site_ids()) != sorted(set(self.site_ids())):
            raise ValueError("expected the sites by ascending id, every id once")
        if self.valid_until <= self.valid_from:
            raise ValueError("expected valid_until after valid_from")
        return self

    def site_ids(self) -> tuple[int, ...]:
        """Return all site ids, ascending; there may be gaps."""
        return tuple(site.id for site in self.sites)

    def site(self, site_id: int) -> RosterSite:
        """Return the site with this id; raises RosterError for an id that is not on the roster."""
        for site in self.sites:
            if site.id == site_id:
                return site
        raise RosterError(
            f"Expected the id of a site on roster {self.serial}, got {site_id}.", remedy="Use the newest roster."
        )

    def id_of(self, public_key: bytes) -> int:
        """Return the id of the site that holds this Ed25519 key; raises RosterError if none does."""
        for site in self.sites:
            if site.public_key == public_key.hex():
                return site.id
        raise RosterError(
            f"This member's key is not on roster {self.serial} of the consortium.",
            remedy="Ask the consortium to add this member and to issue new kits.",
        )

    def keys(self) -> dict[int, bytes]:
        """Return the 32-byte Ed25519 public key of every site, by id."""
        return {site.id: unhex(site.public_key) for site in self.sites}

    def names(self) -> dict[int, str]:
        """Return the name of every site, by id."""
        return {site.id: site.name for site in self.sites}

    def check_dates(self, now: datetime) -> None:
        """Raise RosterError outside the roster's validity."""
        if not self.valid_from <= now <= self.valid_until:
            raise RosterError(
                f"The consortium's roster is valid from {self.valid_from:%Y-%m-%d} to {self.valid_until:%Y-%m-%d}, "
                f"but the clock says {now:%Y-%m-%d %H:%M} UTC.",
                remedy="Check the clock, or ask the consortium for a new kit.",
            )

    def due(self, now: datetime) -> bool:
        """Return whether a new roster should be issued: no more than a third of this one's time is left."""
        return self.valid_until - now <= (self.valid_until - self.valid_from) / 3

    def warning(self, now: datetime) -> str:
        """Return a warning for the operator if the roster ends within 30 days; otherwise an empty string."""
        left = self.valid_until - now
        if left > WARN_BEFORE:
            return ""
        return (
            f"The consortium's roster ends on {self.valid_until:%Y-%m-%d}, in {max(0, left.days)} days. After that, this member "
            "cannot take part in jobs. The consortium issues a new one; the coordinator installs it, and connected sites receive "
            "it by themselves. If none has come a week before the end, ask the consortium."
        )


@dataclass(frozen=True)
class Changes:
    """What a new roster changes, by names of sites, for the operators.

    Args:
        rekeyed: sites with new keys.
    """

    joined: list[str]
    left: list[str]
    rekeyed: list[str]

    def sentence(self) -> str:
        """Return the changes in words."""
        said = (("joined", self.joined), ("left", self.left), ("has new keys", self.rekeyed))
        parts = [f"{', '.join(names)} {word}" for word, names in said if names]
        return "; ".join(parts) or "the same sites"


def changes(before: Roster, after: Roster) -> Changes:
    """Return what changed from one roster to the next."""
    old, new = ({site.id: site for site in roster.sites} for roster in (before, after))
    keys = {number: (site.public_key, site.node_key) for number, site in old.items()}
    return Changes(
        joined=[site.name for site in after.sites if site.id not in old],
        left=[site.name for site in before.sites if site.id not in new],
        rekeyed=[s.name for s in after.sites if s.id in old and (s.public_key, s.node_key) != keys[s.id]],
    )


def seal_roster(roster: Roster, consortium: Identity) -> Signed:
    """Sign a roster with the consortium's key."""
    return Signed.seal(consortium, CONTEXT, canonical_json(roster.model_dump(mode="json")))


def roster_hash(signed: Signed) -> str:
    """Return the SHA-256, in hex, of a signed roster's document, by which jobs and transcripts refer to it."""
    return hashlib.sha256(signed.document.encode()).hexdigest()


def read_roster(signed: Signed, consortium_key: bytes) -> Roster:
    """Check the signature and return the roster, ignoring its dates; for records of past jobs.

    Args:
        consortium_key: 32 bytes, pinned when the member joined.

    Raises:
        IdentityError: not signed by this consortium.
        RosterError: not a roster.
    """
    if len(consortium_key) != PUBLIC_KEY_BYTES:
        raise RosterError("Expected a consortium key of 32 bytes.", remedy="Ask the consortium for a new kit.")
    document = signed.open(consortium_key, CONTEXT, who="the consortium")
    try:
        values = json.loads(document)
    except (ValueError, RecursionError):
        raise RosterError("Expected a roster in JSON.", remedy="Ask the consortium for a new kit.") from None
    return validate(Roster, values, error=RosterError, what="roster", received=True)


def open_roster(signed: Signed, consortium_key: bytes, clock: Clock) -> Roster:
    """Check signature and dates and return the roster; errors as in `read_roster`, and RosterError outside its dates."""
    roster = read_roster(signed, consortium_key)
    roster.check_dates(clock.now())
    return roster
