"""Requests and replies between coordinator and site, and their form inside a Flower message.

A packet is a small strict header and at most two blobs of raw bytes. In a Flower message the header is one bytes value and
each blob one chunked array of raw bytes; nothing is decoded by numpy or unpickled on the way.

    kind         from          header                     blobs
    train        coordinator   job, round, attempt        model
    answer       coordinator   job, round, attempt        request       (a further exchange of the protection)
    evaluate     coordinator   job, round, attempt        model
    measure      coordinator   job, round, attempt        state of the statistics
    hello        coordinator   -                          -
    ok           site          -                          reply
    refused      site          code and text              -
"""

import json
import secrets
from typing import Annotated, Literal

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from pydantic import Field

from salus.common.canonical import canonical_json
from salus.common.errors import WireError
from salus.common.identity import Signed
from salus.common.strict import Strict, validate

BLOB_TYPE = "salus.raw/1"
MAX_HEADER_BYTES = 1_000_000
MESSAGE_TYPES = {
    "train": "train",
    "answer": "query.answer",
    "evaluate": "evaluate",
    "measure": "query.measure",
    "hello": "query.hello",
}


Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


def _nonce() -> str:
    """Return a fresh random value: Flower's store is addressed by content, and what one side will say next must not be
    guessable, or another site could register that content first."""
    return secrets.token_hex(16)


class Request(Strict):
    """What the coordinator asks of one site."""

    kind: Literal["train", "answer", "evaluate", "measure", "hello"]
    nonce: Nonce = Field(default_factory=_nonce)
    job_id: str = ""
    job: Signed | None = None
    round: int = 0
    attempt: int = 0
    sites: tuple[int, ...] = ()


class Reply(Strict):
    """What a site answers; nothing in it depends on the site's data."""

    kind: Literal["ok", "refused"]
    nonce: Nonce = Field(default_factory=_nonce)
    site: int = 0
    error: str = ""
    text: str = ""


def pack(header: Request | Reply, blob: bytes = b"") -> RecordDict:
    """Return the content of a Flower message."""
    array = Array("uint8", (len(blob),), BLOB_TYPE, blob)
    return RecordDict(
        {
            "salus": ConfigRecord({"header": canonical_json(header.model_dump(mode="json"))}),
            "blob": ArrayRecord({"0": array}),
        }
    )


def unpack_request(content: RecordDict) -> tuple[Request, bytes]:
    """Return header and blob of a request; raises WireError for anything else."""
    header, blob = _unpack(content)
    return validate(Request, header, error=WireError, what="request"), blob


def unpack_reply(content: RecordDict) -> tuple[Reply, bytes]:
    """Return header and blob of a reply; raises WireError for anything else."""
    header, blob = _unpack(content)
    return validate(Reply, header, error=WireError, what="reply"), blob


def _unpack(content: RecordDict) -> tuple[object, bytes]:
    try:
        raw = content.config_records["salus"]["header"]
        array = content.array_records["blob"]["0"]
    except KeyError:
        raise WireError("Expected a message of Salus.", remedy="Both sides must run Salus.") from None
    if not isinstance(raw, bytes) or len(raw) > MAX_HEADER_BYTES or array.stype != BLOB_TYPE:
        raise WireError("Expected a header and raw bytes.", remedy="Both sides must run the same version of Salus.")
    try:
        return json.loads(raw), array.data
    except (ValueError, RecursionError):
        raise WireError("Expected a JSON header.", remedy="Both sides must run the same version of Salus.") from None
