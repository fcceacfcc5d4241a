"""The roster: the consortium's signed list of who takes part, with every key, pinned at every site.

A site's id is its position in the roster, from 1. The consortium's key signs the roster; the coordinator cannot change it.
"""

from datetime import datetime
from typing import Annotated, Self

from pydantic import AwareDatetime, Field, model_validator

from salus.common.canonical import canonical_json
from salus.common.clock import Clock
from salus.common.errors import RosterError
from salus.common.identity import PUBLIC_KEY_BYTES, Identity, Signed, unhex
from salus.common.strict import Strict, validate

CONTEXT = "salus/roster/1"
HexKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PersonName = Annotated[str, Field(min_length=1, max_length=100)]


class RosterSite(Strict):
    """One hospital: its name, its Ed25519 key and the key of its transport node (PEM, public)."""

    name: PersonName
    public_key: HexKey
    node_key: str


class RosterCoordinator(Strict):
    """The coordinator: where it listens and the Ed25519 key that signs its jobs."""

    name: PersonName
    url: Annotated[str, Field(pattern=r"^https://[^\s/]+$")]
    public_key: HexKey


class Roster(Strict):
    """Everybody in the consortium, valid between two instants."""

    consortium: PersonName
    serial: Annotated[int, Field(ge=1)]
    valid_from: AwareDatetime
    valid_until: AwareDatetime
    coordinator: RosterCoordinator
    sites: tuple[RosterSite, ...]

    @model_validator(mode="after")
    def _everyone_once(self) -> Self:
        keys = [site.public_key for site in self.sites] + [self.coordinator.public_key]
        nodes = [site.node_key for site in self.sites]
        names = [site.name for site in self.sites]
        if len(set(keys)) != len(keys) or len(set(nodes)) != len(nodes) or len(set(names)) != len(names):
            raise ValueError("expected every name and every key at most once")
        if self.valid_until <= self.valid_from:
            raise ValueError("expected valid_until after valid_from")
        return self

    def site_ids(self) -> tuple[int, ...]:
        """Return all site ids, ascending from 1."""
        return tuple(range(1, len(self.sites) + 1))

    def site(self, site_id: int) -> RosterSite:
        """Return the site with this id; raises RosterError for an id that is not on the roster."""
        if not 1 <= site_id <= len(self.sites):
            raise RosterError(
                f"Expected a site id from 1 to {len(self.sites)}, got {site_id}.", remedy="Use the newest roster."
            )
        return self.sites[site_id - 1]

    def id_of(self, public_key: bytes) -> int:
        """Return the id of the site that holds this Ed25519 key; raises RosterError if none does."""
        for position, site in enumerate(self.sites, start=1):
            if site.public_key == public_key.hex():
                return position
        raise RosterError(
            "This key is not on the roster.", remedy="Ask the consortium to add the site and to issue a new roster."
        )

    def check_dates(self, now: datetime) -> None:
        """Raise RosterError outside the roster's validity."""
        if not self.valid_from <= now <= self.valid_until:
            raise RosterError(
                f"Expected a date between {self.valid_from:%Y-%m-%d} and {self.valid_until:%Y-%m-%d}, "
                f"but the clock says {now:%Y-%m-%d %H:%M} UTC.",
                remedy="Check the clock, or ask the consortium for a new roster.",
            )


def seal_roster(roster: Roster, consortium: Identity) -> Signed:
    """Sign a roster with the consortium's key."""
    return Signed.seal(consortium, CONTEXT, canonical_json(roster.model_dump(mode="json")))


def open_roster(signed: Signed, consortium_key: bytes, clock: Clock) -> Roster:
    """Check signature and dates and return the roster.

    Args:
        consortium_key: 32 bytes, pinned when the site joined.

    Raises:
        IdentityError: not signed by this consortium.
        RosterError: expired, not yet valid, or not a roster.
    """
    import json

    if len(consortium_key) != PUBLIC_KEY_BYTES:
        raise RosterError("Expected a consortium key of 32 bytes.", remedy="Join again with a new kit.")
    document = signed.open(consortium_key, CONTEXT, who="the consortium")
    roster = validate(Roster, json.loads(document), error=RosterError, what="roster")
    roster.check_dates(clock.now())
    return roster


def site_key(roster: Roster, site_id: int) -> bytes:
    """Return the 32-byte Ed25519 public key of a site."""
    return unhex(roster.site(site_id).public_key)
