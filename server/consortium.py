"""The consortium: its own keys, the members that asked to join, and the kits that it issues.

    init            consortium.key and the authority's key, made once, kept off the coordinator's machine if possible
    add-site        a member's request is recorded
    issue           a signed roster and one kit per member; again whenever a member was added or a date comes near

It never sees a member's private key.
"""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from salus.common.certificates import check_certificate, issue, make_authority, new_transport_key
from salus.common.clock import Clock
from salus.common.errors import ConfigError, IdentityError
from salus.common.identity import Identity, load_private_key, save_private_key
from salus.common.kit import Kit, MemberRequest, write_json
from salus.common.roster import PersonName, Roster, RosterCoordinator, RosterSite, seal_roster
from salus.common.strict import Strict, read_text, validate

AUTHORITY_DAYS = 3650
STATE = "consortium.json"


class ConsortiumState(Strict):
    """What the consortium remembers between commands."""

    name: PersonName
    serial: Annotated[int, Field(ge=0)] = 0
    coordinator: MemberRequest | None = None
    sites: tuple[MemberRequest, ...] = ()


class Consortium:
    """A consortium's folder."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        import json

        text = read_text(folder / STATE, error=ConfigError, what="consortium's file")
        try:
            values = json.loads(text)
        except ValueError:
            raise ConfigError("The consortium's file is damaged.", remedy="Restore it from a backup.") from None
        self.state = validate(ConsortiumState, values, error=ConfigError, what="consortium's file")
        self._identity = Identity.load(folder / "keys" / "consortium.pem")

    @classmethod
    def create(cls, folder: Path, name: str, clock: Clock) -> "Consortium":
        """Make the keys and the authority of a new consortium; an existing one is never overwritten."""
        if (folder / STATE).exists():
            raise ConfigError(f"There is a consortium in {folder.name!r} already.", remedy="Choose another folder.")
        keys = folder / "keys"
        keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        Identity.generate().save(keys / "consortium.pem")
        authority_key = new_transport_key()
        save_private_key(authority_key, keys / "authority.pem")
        authority = make_authority(authority_key, f"{name} authority", clock.now(), AUTHORITY_DAYS)
        (folder / "authority.crt").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        write_json(folder / STATE, ConsortiumState(name=name))
        return cls(folder, clock)

    @property
    def public_key(self) -> bytes:
        """The key that every member pins."""
        return self._identity.public_key

    def add(self, request: MemberRequest) -> int:
        """Record a member's request and return a site's id, or 0 for the coordinator.

        A site that asks again under its name with new keys replaces its old entry and keeps its id.
        """
        if request.role == "coordinator":
            if not request.url.startswith("https://"):
                raise ConfigError(
                    "Expected the coordinator's URL to begin with https://.", remedy="Make a new request."
                )
            self._save(self.state.model_copy(update={"coordinator": request}))
            return 0
        if request.url:
            raise ConfigError(
                "Expected no URL in a site's request; only the coordinator is connected to.", remedy="Refuse it."
            )
        if not request.node_key:
            raise ConfigError(
                "Expected a node key in a site's request.", remedy="Make a new request: salus client init."
            )
        sites = list(self.state.sites)
        position = next((i for i, site in enumerate(sites) if site.name == request.name), len(sites))
        taken = [site.name for i, site in enumerate(sites) if i != position and site.public_key == request.public_key]
        if taken:
            raise IdentityError(f"The site {taken[0]!r} has this key already.", remedy="Each site makes its own keys.")
        sites[position : position + 1] = [request]
        self._save(self.state.model_copy(update={"sites": tuple(sites)}))
        return position + 1

    def issue(self, output: Path, *, days: int) -> list[Path]:
        """Sign a new roster and write one kit per member; returns the kit files.

        Raises:
            ConfigError: no coordinator or no site yet.
        """
        coordinator = self.state.coordinator
        if coordinator is None or not self.state.sites:
            raise ConfigError("Expected a coordinator and at least one site.", remedy="Add their requests first.")
        now = self._clock.now()
        roster = Roster(
            consortium=self.state.name,
            serial=self.state.serial + 1,
            valid_from=now - timedelta(minutes=5),
            valid_until=now + timedelta(days=days),
            coordinator=RosterCoordinator(
                name=coordinator.name, url=coordinator.url, public_key=coordinator.public_key
            ),
            sites=tuple(
                RosterSite(name=site.name, public_key=site.public_key, node_key=site.node_key)
                for site in self.state.sites
            ),
        )
        signed = seal_roster(roster, self._identity)
        authority = check_certificate(self._folder / "authority.crt", now)
        output.mkdir(parents=True, exist_ok=True)
        written = []
        for number, member in enumerate([coordinator, *self.state.sites]):
            certificate = self._certificate(authority, member, days)
            kit = Kit(
                name=member.name,
                consortium_key=self.public_key.hex(),
                authority=authority.public_bytes(serialization.Encoding.PEM).decode(),
                certificate=certificate,
                roster=signed,
            )
            path = output / ("coordinator.kit" if number == 0 else f"site-{number}.kit")
            write_json(path, kit)
            written.append(path)
        self._save(self.state.model_copy(update={"serial": roster.serial}))
        return written

    def _certificate(self, authority: x509.Certificate, member: MemberRequest, days: int) -> str:
        key = load_private_key(self._folder / "keys" / "authority.pem")
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # Safe because `create` made it so.
        return issue(
            authority,
            key,
            member.certificate_request,
            now=self._clock.now(),
            days=days,
            server_url=member.url if member.role == "coordinator" else None,
        )

    def _save(self, state: ConsortiumState) -> None:
        beside = self._folder / f"{STATE}.part"
        write_json(beside, state)
        beside.replace(self._folder / STATE)
        self.state = state
