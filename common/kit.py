"""Files that travel between the consortium and its members: requests from members, kits to members; neither contains a secret."""

import json
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from salus.common.canonical import canonical_json
from salus.common.certificates import make_request, new_node_key, new_transport_key, public_pem
from salus.common.errors import ConfigError, WireError
from salus.common.files import write_whole
from salus.common.identity import Identity, Signed, save_private_key
from salus.common.names import DisplayName
from salus.common.roster import MAX_SITES, HexKey, SiteId
from salus.common.strict import MAX_FILE_BYTES, Strict, read_text, validate

SIGNING_KEY, TRANSPORT_KEY, NODE_KEY = "signing.pem", "transport.pem", "node.pem"
MAX_PEM = 20_000
MAX_RECEIVED_BYTES = 8 * 2**20  # the same without the certificates of others
MAX_LISTS, MAX_VALUES = 10, 100_000  # a kit has one list, and about four values for each site
MAX_KIT_BYTES = 16 * 2**20  # of a roster with as many sites as it may have, and their certificates


class MemberRequest(Strict):
    """What a member sends to the consortium: its public keys and a certificate request."""

    newest_format: ClassVar[int] = 1

    format: Literal[1] = 1
    role: Literal["site", "coordinator"]
    name: DisplayName
    url: Annotated[str, Field(max_length=300)] = ""
    public_key: HexKey
    node_key: Annotated[str, Field(max_length=2000)] = ""
    certificate_request: Annotated[str, Field(max_length=MAX_PEM)]


class SiteCertificate(Strict):
    """The transport certificate of one site."""

    site: SiteId
    certificate: Annotated[str, Field(min_length=1, max_length=MAX_PEM)]


class Kit(Strict):
    """What the consortium sends to a member: the signed roster, the TLS authority and the member's own certificate.

    Args:
        sites: in the coordinator's kit, the certificates that it passes on to the sites; empty in a site's kit.
    """

    newest_format: ClassVar[int] = 1

    format: Literal[1] = 1
    name: DisplayName
    consortium_key: HexKey
    authority: Annotated[str, Field(min_length=1, max_length=MAX_PEM)]
    certificate: Annotated[str, Field(min_length=1, max_length=MAX_PEM)]
    roster: Signed
    sites: Annotated[tuple[SiteCertificate, ...], Field(max_length=MAX_SITES)] = ()

    def for_site(self, site: int, name: str) -> "Kit | None":
        """Return the kit of a site whose certificate is in this kit of the coordinator; None if it is not."""
        for own in self.sites:
            if own.site == site:
                return self.model_copy(update={"name": name, "certificate": own.certificate, "sites": ()})
        return None

    def to_bytes(self) -> bytes:
        """Return the form that is stored and sent; a site's kit has no key that Salus 1 does not know."""
        return canonical_json(self.model_dump(mode="json", exclude=None if self.sites else {"sites"}))


def create_keys(folder: Path, role: Literal["site", "coordinator"], name: str, url: str = "") -> MemberRequest:
    """Create a member's private keys in ``folder/keys`` (mode 0700) and return its request.

    Raises:
        IdentityError: the folder already has keys; they are never overwritten.
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
    return validate(MemberRequest, read_json(path, "request"), error=ConfigError, what="request", received=True)


def read_kit(path: Path) -> Kit:
    """Read a kit file; raises ConfigError for anything else."""
    return validate(Kit, read_json(path, "kit", MAX_KIT_BYTES), error=ConfigError, what="kit", received=True)


def received_kit(data: bytes) -> Kit:
    """Return a kit that came over the network; raises WireError for anything else."""
    if len(data) > MAX_RECEIVED_BYTES:
        raise WireError(f"Expected a kit of at most {MAX_RECEIVED_BYTES} bytes.", remedy="Call the coordinator.")
    if data.count(b"[") > MAX_LISTS or data.count(b",") > MAX_VALUES:  # before memory is spent on them
        raise WireError("Expected a kit, got more lists or values than one has.", remedy="Call the coordinator.")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise WireError("Expected a kit in JSON.", remedy="Call the coordinator.") from None
    return validate(Kit, values, error=WireError, what="kit", received=True)


def read_json(path: Path, what: str, most: int = MAX_FILE_BYTES) -> object:
    """Return the contents of a JSON file of at most `most` bytes; raises ConfigError."""
    try:
        return json.loads(read_text(path, error=ConfigError, what=what, most=most))
    except (ValueError, RecursionError):
        raise ConfigError(
            f"Expected a {what} file, but {path.name!r} is not JSON.",
            remedy="Check the path, or ask for the file again.",
        ) from None


def write_json(path: Path, document: Strict) -> None:
    """Write a request or a kit, completely or not at all."""
    data = document.to_bytes() if isinstance(document, Kit) else canonical_json(document.model_dump(mode="json"))
    write_whole(path, data + b"\n")
