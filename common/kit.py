"""Files that travel between the consortium and its members: requests from members, kits to members; neither contains a secret."""

import json
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from salus.common.canonical import canonical_json
from salus.common.certificates import make_request, new_node_key, new_transport_key, public_pem
from salus.common.errors import ConfigError
from salus.common.files import write_whole
from salus.common.identity import Identity, Signed, save_private_key
from salus.common.names import DisplayName
from salus.common.roster import HexKey
from salus.common.strict import Strict, read_text, validate

SIGNING_KEY, TRANSPORT_KEY, NODE_KEY = "signing.pem", "transport.pem", "node.pem"
MAX_PEM = 20_000


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


class Kit(Strict):
    """What the consortium sends to a member: the signed roster, the TLS authority and the member's own certificate."""

    newest_format: ClassVar[int] = 1

    format: Literal[1] = 1
    name: DisplayName
    consortium_key: HexKey
    authority: Annotated[str, Field(min_length=1, max_length=MAX_PEM)]
    certificate: Annotated[str, Field(min_length=1, max_length=MAX_PEM)]
    roster: Signed


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
    return validate(Kit, read_json(path, "kit"), error=ConfigError, what="kit", received=True)


def read_json(path: Path, what: str) -> object:
    """Return the contents of a JSON file; raises ConfigError."""
    try:
        return json.loads(read_text(path, error=ConfigError, what=what))
    except (ValueError, RecursionError):
        raise ConfigError(
            f"Expected a {what} file, but {path.name!r} is not JSON.",
            remedy="Check the path, or ask for the file again.",
        ) from None


def write_json(path: Path, document: Strict) -> None:
    """Write a request or a kit, completely or not at all."""
    write_whole(path, canonical_json(document.model_dump(mode="json")) + b"\n")
