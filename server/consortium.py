"""The consortium: its own keys, its members, and the kits that it issues.

    init            creates consortium.key and the authority's key; keep them off the coordinator's machine if possible
    add-site        records the request of a new member; replaces a known member only with --replace
    remove-site     ends a membership; the site's id is never reused
    issue           signs a new roster and writes one kit per member; run it after every change and before the roster expires
    status          members, dates, and what the next `issue` changes

It never sees a member's private key.
"""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from salus.common.certificates import authority_hash, check_certificate, issue, make_authority, new_transport_key
from salus.common.clock import Clock
from salus.common.errors import ConfigError, IdentityError
from salus.common.files import check_new_folder
from salus.common.identity import Identity, Signed, fingerprint, load_private_key, save_private_key, unhex
from salus.common.kit import MAX_KIT_BYTES, Kit, MemberRequest, SiteCertificate, read_json, write_json
from salus.common.names import DisplayName, check_name, same_name
from salus.common.roster import Roster, RosterCoordinator, RosterSite, SiteId, read_roster, seal_roster
from salus.common.strict import Strict, read_text, validate
from salus.common.trust import ROSTERS

AUTHORITY_DAYS = 3650
STATE = "consortium.json"
REPLACE = (
    "Compare the new fingerprint by telephone; if the member has created new keys, repeat the command with --replace."
)


class Member(Strict):
    """One site of the consortium: its id and its request."""

    id: SiteId
    request: MemberRequest


class ConsortiumState(Strict):
    """The consortium's state between commands.

    Args:
        next_id: the id of the next new site; ids of removed sites are never reused.
    """

    newest_format: ClassVar[int] = 1

    format: Literal[1] = 1
    name: DisplayName
    serial: Annotated[int, Field(ge=0)] = 0
    next_id: SiteId = 1
    coordinator: MemberRequest | None = None
    sites: tuple[Member, ...] = ()


class Consortium:
    """A consortium's folder."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        text = read_text(folder / STATE, error=ConfigError, what="consortium's file", most=MAX_KIT_BYTES)
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise ConfigError("The consortium's file is damaged.", remedy="Restore it from a backup.") from None
        self.state = validate(ConsortiumState, values, error=ConfigError, what="consortium's file", received=True)
        self._identity = Identity.load(folder / "keys" / "consortium.pem")

    @classmethod
    def create(cls, folder: Path, name: str, clock: Clock) -> "Consortium":
        """Create the keys and the authority of a new consortium in a new or empty folder.

        Raises:
            ConfigError: an invalid name, or a folder that is not empty; nothing is written then.
        """
        checked_name(name, "consortium")
        check_new_folder(folder, STATE)
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

    def add(self, request: MemberRequest, *, replace: bool = False) -> int:
        """Record a member's request and return a site's id, or 0 for the coordinator.

        Args:
            replace: whether these keys may replace those of a member of this name, or of the coordinator; a site keeps its id.

        Raises:
            ConfigError: a request that is not valid for its role.
            IdentityError: the member is known and `replace` is not set (the message has both fingerprints), or another
                member has the key.
        """
        request = _checked(request)
        if request.role == "coordinator":
            self._check_replace("The coordinator", self.state.coordinator, request, replace)
            self._check_keys(request, [member.request for member in self.state.sites])
            self._save(self.state.model_copy(update={"coordinator": request}))
            return 0
        known = next((member for member in self.state.sites if same_name(member.request.name, request.name)), None)
        self._check_replace(f"The site {request.name!r}", known.request if known else None, request, replace)
        others = [member for member in self.state.sites if member is not known]
        coordinator = [self.state.coordinator] if self.state.coordinator else []
        self._check_keys(request, [*coordinator, *(member.request for member in others)])
        number = known.id if known else self.state.next_id
        sites = sorted([*others, Member(id=number, request=request)], key=lambda member: member.id)
        following = max(self.state.next_id, number + 1)
        self._save(self.state.model_copy(update={"sites": tuple(sites), "next_id": following}))
        return number

    def member(self, request: MemberRequest) -> MemberRequest | None:
        """Return the member that a request would replace, or None for a new member."""
        if request.role == "coordinator":
            return self.state.coordinator
        return next((m.request for m in self.state.sites if same_name(m.request.name, request.name)), None)

    def remove(self, site: str) -> Member:
        """End the membership of a site, by name or id, and return it; it takes effect with the next roster.

        Raises:
            ConfigError: no such site.
        """
        found = [m for m in self.state.sites if same_name(m.request.name, site) or str(m.id) == site]
        if len(found) != 1:
            names = ", ".join(f"{member.id} {member.request.name}" for member in self.state.sites)
            raise ConfigError(
                f"{'No site is' if not found else 'Several sites are'} called {site[:80]!r}.",
                remedy=f"{f'Use one of: {names}' if names else 'There are no sites yet'}.",
            )
        rest = tuple(member for member in self.state.sites if member is not found[0])
        self._save(self.state.model_copy(update={"sites": rest}))
        return found[0]

    @staticmethod
    def _check_replace(who: str, known: MemberRequest | None, request: MemberRequest, replace: bool) -> None:
        if known is None or replace or known == request:
            return
        raise IdentityError(
            f"{who} is a member already, with key fingerprint {fingerprint(unhex(known.public_key))}; "
            f"this request has {fingerprint(unhex(request.public_key))}.",
            remedy=REPLACE,
        )

    @staticmethod
    def _check_keys(request: MemberRequest, others: list[MemberRequest]) -> None:
        for other in others:
            if other.public_key == request.public_key or (request.node_key and other.node_key == request.node_key):
                raise IdentityError(
                    f"The member {other.name!r} already has this key.", remedy="Each member must create its own keys."
                )

    def issue(self, output: Path, *, days: int) -> list[Path]:
        """Sign a new roster and write one kit per member, the coordinator's first; returns the kit files.

        Raises:
            ConfigError: no coordinator or no site yet.
        """
        coordinator = self.state.coordinator
        if coordinator is None or not self.state.sites:
            raise ConfigError("A roster needs a coordinator and at least one site.", remedy="Add their requests first.")
        now = self._clock.now()
        certificate = check_certificate(self._folder / "authority.crt", now)
        authority = certificate.public_bytes(serialization.Encoding.PEM).decode()
        roster = self._roster(coordinator, authority, days)
        signed = seal_roster(roster, self._identity)
        # The serial is used up before anything signed with it can leave, so no two rosters share a serial.
        self._save(self.state.model_copy(update={"serial": roster.serial}))
        (self._folder / ROSTERS).mkdir(mode=0o700, exist_ok=True)
        write_json(self._folder / ROSTERS / f"{roster.serial:06d}.json", signed)
        output.mkdir(parents=True, exist_ok=True)
        sites = tuple(
            SiteCertificate(site=member.id, certificate=self._certificate(certificate, member.request, days))
            for member in self.state.sites
        )
        kit = Kit(
            name=coordinator.name,
            consortium_key=self.public_key.hex(),
            authority=authority,
            certificate=self._certificate(certificate, coordinator, days),
            roster=signed,
            sites=sites,
        )
        kits = {"coordinator.kit": kit}
        for member in self.state.sites:
            own = kit.for_site(member.id, member.request.name)
            assert own is not None  # Safe because the kit has the certificate of every site.
            kits[f"site-{member.id}.kit"] = own
        for name, made in kits.items():
            write_json(output / name, made)
        return [output / name for name in kits]

    def newest_roster(self) -> Roster | None:
        """Return the roster that was issued last; None before the first one, or if an older version of Salus issued it."""
        path = self._folder / ROSTERS / f"{self.state.serial:06d}.json"
        if not path.exists():
            return None
        signed = validate(Signed, read_json(path, "roster", MAX_KIT_BYTES), error=ConfigError, what="roster")
        return read_roster(signed, self.public_key)

    def authority_until(self) -> datetime:
        """Return until when the TLS authority is valid; raises IdentityError if it has expired."""
        return check_certificate(self._folder / "authority.crt", self._clock.now()).not_valid_after_utc

    def _roster(self, coordinator: MemberRequest, authority: str, days: int) -> Roster:
        now = self._clock.now()
        return Roster(
            consortium=self.state.name,
            serial=self.state.serial + 1,
            valid_from=now - timedelta(minutes=5),
            valid_until=now + timedelta(days=days),
            authority_sha256=authority_hash(authority),
            coordinator=RosterCoordinator(
                name=coordinator.name, url=coordinator.url, public_key=coordinator.public_key
            ),
            sites=tuple(
                RosterSite(
                    id=member.id,
                    name=member.request.name,
                    public_key=member.request.public_key,
                    node_key=member.request.node_key,
                )
                for member in self.state.sites
            ),
        )

    def _certificate(self, authority: x509.Certificate, member: MemberRequest, days: int) -> str:
        key = load_private_key(self._folder / "keys" / "authority.pem")
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # Safe because `create` wrote such a key.
        return issue(
            authority,
            key,
            member.certificate_request,
            now=self._clock.now(),
            days=days,
            server_url=member.url if member.role == "coordinator" else None,
        )

    def _save(self, state: ConsortiumState) -> None:
        write_json(self._folder / STATE, state)
        self.state = state


def checked_name(name: str, what: str) -> str:
    """Return a name that a person typed; raises ConfigError for an invalid one."""
    try:
        return check_name(name)
    except ValueError as problem:
        raise ConfigError(f"The {what}'s name is not valid: {problem}.", remedy="Choose another name.") from None


def _checked(request: MemberRequest) -> MemberRequest:
    """Return a request whose fields are valid for its role, with its node key in normal form."""
    if request.role == "coordinator":
        if not request.url.startswith("https://"):
            raise ConfigError(
                "The coordinator's URL must begin with https://.",
                remedy="Create a new request with `salus server init`.",
            )
        return request
    if request.url:
        raise ConfigError(
            "Expected no URL in a site's request; only the coordinator has one.", remedy="Reject the request."
        )
    try:
        node = serialization.load_pem_public_key(request.node_key.encode())
    except (ValueError, UnsupportedAlgorithm):
        node = None
    if not isinstance(node, ec.EllipticCurvePublicKey):
        raise ConfigError(
            "A site's request needs an elliptic-curve node key.",
            remedy="Create a new request with `salus client init`.",
        )
    pem = node.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return request.model_copy(update={"node_key": pem.decode()})
