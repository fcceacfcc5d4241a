"""Papers that travel between the consortium and its members: requests one way, kits the other; nothing secret in either."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from salus.common.canonical import canonical_json
from salus.common.certificates import make_request, new_node_key, new_transport_key, public_pem
from salus.common.clock import Clock
from salus.common.errors import ConfigError, IdentityError, RosterError
from salus.common.identity import Identity, Signed, save_private_key, unhex
from salus.common.roster import HexKey, PersonName, Roster, open_roster
from salus.common.strict import Strict, read_text, validate

SIGNING_KEY, TRANSPORT_KEY, NODE_KEY = "signing.pem", "transport.pem", "node.pem"
AUTHORITY, CERTIFICATE, ROSTER = "authority.crt", "transport.crt", "roster.json"


class MemberRequest(Strict):
    """What a site or a coordinator asks the consortium for: its public keys and a certificate request."""

    role: Literal["site", "coordinator"]
    name: PersonName
    url: str = ""
    public_key: HexKey
    node_key: str = ""
    certificate_request: str


class Kit(Strict):
    """What the consortium gives a member: who may be trusted, and the member's certificate."""

    name: PersonName
    consortium_key: HexKey
    authority: Annotated[str, Field(min_length=1)]
    certificate: Annotated[str, Field(min_length=1)]
    roster: Signed


def create_keys(folder: Path, role: Literal["site", "coordinator"], name: str, url: str = "") -> MemberRequest:
    """Make a member's private keys in ``folder/keys`` (mode 0700) and return its request.

    Raises:
        IdentityError: there are keys already; they are never overwritten.
    """
    keys = folder / "keys"
    keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    identity, transport, node = Identity.generate(), new_transport_key(), new_node_key()
    identity.save(keys / SIGNING_KEY)
    save_private_key(transport, keys / TRANSPORT_KEY)
    if role == "site":
        save_private_key(node, keys / NODE_KEY)
    return MemberRequest(
        role=role,
        name=name,
        url=url,
        public_key=identity.public_key.hex(),
        node_key=public_pem(node) if role == "site" else "",
        certificate_request=make_request(transport, name),
    )


def read_request(path: Path) -> MemberRequest:
    """Read a request file; raises ConfigError for anything else."""
    return validate(MemberRequest, _json(path, "request"), error=ConfigError, what="request")


def read_kit(path: Path) -> Kit:
    """Read a kit file; raises ConfigError for anything else."""
    return validate(Kit, _json(path, "kit"), error=ConfigError, what="kit")


def _json(path: Path, what: str) -> object:
    try:
        return json.loads(read_text(path, error=ConfigError, what=what))
    except (ValueError, RecursionError):
        raise ConfigError(f"Expected {path.name!r} to be a {what} file.", remedy="Ask for the file again.") from None


def write_json(path: Path, document: Strict) -> None:
    """Write a request or a kit."""
    path.write_bytes(canonical_json(document.model_dump(mode="json")) + b"\n")


def install_kit(folder: Path, kit: Kit, clock: Clock) -> Roster:
    """Check a kit against this member's own keys and write its parts into ``folder/trust``.

    The consortium's key is pinned by the first kit; a later kit signed by another key is refused.

    Raises:
        IdentityError: a roster that does not verify, another consortium than before, or a member that is not this one.
    """
    trust = folder / "trust"
    pinned = trust / "consortium.key"
    consortium_key = unhex(kit.consortium_key)
    if pinned.exists() and pinned.read_text().strip() != kit.consortium_key:
        raise IdentityError(
            "This kit is from another consortium than the one this member joined.",
            remedy="If the change is meant, begin in a new folder.",
        )
    roster = open_roster(kit.roster, consortium_key, clock)
    own = Identity.load(folder / "keys" / SIGNING_KEY).public_key
    if roster.coordinator.public_key != own.hex():
        roster.id_of(own)  # raises if this member is not on the roster
    if (trust / ROSTER).exists():
        newest = json.loads(
            validate(Signed, _json(trust / ROSTER, "roster"), error=ConfigError, what="roster").document
        )
        if newest["serial"] > roster.serial:
            raise RosterError(
                f"This kit's roster has serial {roster.serial}, but {newest['serial']} is installed.",
                remedy="Use the newest kit.",
            )
    trust.mkdir(mode=0o700, exist_ok=True)
    pinned.write_text(kit.consortium_key + "\n")
    (trust / AUTHORITY).write_text(kit.authority)
    (trust / CERTIFICATE).write_text(kit.certificate)
    (trust / ROSTER).write_bytes(kit.roster.to_bytes())
    return roster


def installed_roster(folder: Path, clock: Clock) -> Roster:
    """Return the installed roster after checking its signature and dates again; raises IdentityError or RosterError."""
    trust = folder / "trust"
    if not (trust / ROSTER).exists():
        raise ConfigError(
            f"{folder.name!r} has not joined a consortium yet.",
            remedy="Install the kit that the consortium sent: join.",
        )
    signed = validate(Signed, _json(trust / ROSTER, "roster"), error=ConfigError, what="roster")
    return open_roster(signed, unhex((trust / "consortium.key").read_text().strip()), clock)
