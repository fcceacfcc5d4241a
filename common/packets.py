"""Requests and replies between coordinator and site, and their form inside a Flower message.

A packet is a small strict header and at most two blobs of raw bytes. In a Flower message the header is one bytes value and
each blob one chunked array of raw bytes; nothing is decoded by numpy or unpickled in transit.

    kind         from          header                     blobs
    train        coordinator   job, round, attempt        model
    answer       coordinator   job, round, attempt        request       (a further exchange of the protection)
    evaluate     coordinator   job, round, attempt        model
    measure      coordinator   job, round, attempt        state of the statistics
    check        coordinator   job                        -             (could this site run it? answered with a verdict)
    start        coordinator   job                        weights       (with which it starts; none asks whether they are there)
    roster       coordinator   roster                     kit           (the newest roster; none asks which one is there)
    canary       coordinator   job, round, attempt        model         (one round with a vector of zeros; nothing is kept)
    end          coordinator   job                        -             (it was aborted; nothing more comes for it)
    hello        coordinator   -                          -
    ok           site          -                          reply
    refused      site          code and text              -
"""

import json
import re
import secrets
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from salus.common.canonical import canonical_json
from salus.common.errors import WireError
from salus.common.identity import Signed
from salus.common.strict import Strict, validate
from salus.common.versions import PACKET_FORMAT, check_format

if TYPE_CHECKING:  # a site at rest passes requests on as bytes, without Flower
    from flwr.app import Message, RecordDict

Packet = tuple[bytes, bytes] | WireError | None  # header and blob; why there are none; or None: the site did not answer
BLOB_TYPE = "salus.raw/1"
MAX_HEADER_BYTES = 1_000_000
MAX_REPLY_BYTES = 16 * 2**10  # of a reply's header: a text of `MAX_TEXT` characters, and names
SAME_VERSION = "Both sides must run the same version of Salus."
HERE = b"here"  # a site's answer to a request of kind start: it has the weights
MESSAGE_TYPES = {
    "train": "train",
    "answer": "query.answer",
    "evaluate": "evaluate",
    "measure": "query.measure",
    "check": "query.check",
    "canary": "query.canary",
    "start": "query.start",
    "end": "query.end",
    "roster": "query.roster",
    "hello": "query.hello",
}


Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
JobId = Annotated[
    str, Field(pattern=r"^([a-z0-9][a-z0-9-]{0,79})?$")
]  # a job's name and number; used in database rows and file names
MAX_TEXT = 2000
Count = Annotated[int, Field(ge=0, le=1_000_000)]
SiteId = Annotated[int, Field(ge=1, le=10_000)]


def _nonce() -> str:
    """Return a fresh random value.

    Flower's store is addressed by content: if the next message could be guessed, another site could register it first.
    """
    return secrets.token_hex(16)


class Request(Strict):
    """The coordinator's request to one site."""

    kind: Literal["train", "answer", "evaluate", "measure", "check", "canary", "start", "end", "roster", "hello"]
    protocol: Literal[1] = 1
    nonce: Nonce = Field(default_factory=_nonce)
    job_id: JobId = ""
    job: Signed | None = None
    round: Count = 0
    attempt: Count = 0
    sites: Annotated[tuple[SiteId, ...], Field(max_length=10_000)] = ()
    roster: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""  # hash of the roster that the job began with

    @property
    def session(self) -> tuple[str, int, int]:
        """What names the protected sum to which this request belongs."""
        return self.job_id, self.round, self.attempt


class Reply(Strict):
    """A site's answer; nothing in it depends on the site's data."""

    kind: Literal["ok", "refused"]
    protocol: Literal[1] = 1
    nonce: Nonce = Field(default_factory=_nonce)
    site: Annotated[int, Field(ge=0, le=10_000)] = 0
    error: Annotated[str, Field(pattern=r"^[A-Za-z]{0,64}$")] = ""
    text: Annotated[str, Field(max_length=MAX_TEXT, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")] = ""


def refusal(site: int, problem: BaseException, text: str) -> Reply:
    """Return a site's refusal; control characters become spaces, and text that is too long for a reply is cut."""
    plain = re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text.encode(errors="replace").decode())
    error = re.sub(r"[^A-Za-z]", "", type(problem).__name__)
    return Reply(kind="refused", site=site, error=error[:64], text=plain[:MAX_TEXT])


def require_type(request: Request, message_type: str) -> None:
    """Raise WireError unless a request came in a message of its own type."""
    if MESSAGE_TYPES[request.kind] != message_type:
        raise WireError("The message's type does not match its content.", remedy="")


def header_of(header: Request | Reply) -> bytes:
    """Return the bytes of a header."""
    return canonical_json(header.model_dump(mode="json"))


def request_of(raw: bytes) -> Request:
    """Return a request from the bytes of its header; raises WireError for anything else."""
    return validate(Request, _parsed(raw), error=WireError, what="request", received=True)


def reply_of(raw: bytes) -> Reply:
    """Return a reply from the bytes of its header; raises WireError for anything else."""
    return validate(Reply, _parsed(raw, MAX_REPLY_BYTES), error=WireError, what="reply", received=True)


def pack(header: Request | Reply, blob: bytes = b"") -> "RecordDict":
    """Return the content of a Flower message."""
    return content_of(header_of(header), blob)


def content_of(header: bytes, blob: bytes) -> "RecordDict":
    """Return the content of a Flower message with a header that is bytes already; it is checked when it is unpacked."""
    from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

    array = Array("uint8", (len(blob),), BLOB_TYPE, blob)
    return RecordDict({"salus": ConfigRecord({"header": header}), "blob": ArrayRecord({"0": array})})


def parts_of(content: "RecordDict") -> tuple[bytes, bytes]:
    """Return header and blob of a packet as bytes; raises WireError for other content."""
    try:
        raw = content.config_records["salus"]["header"]
        array = content.array_records["blob"]["0"]
    except KeyError:
        raise WireError("Expected a Salus message.", remedy="Both sides must run Salus.") from None
    if not isinstance(raw, bytes) or len(raw) > MAX_HEADER_BYTES or array.stype != BLOB_TYPE:
        raise WireError("Expected a header and raw bytes.", remedy=SAME_VERSION)
    return raw, array.data


def packet_of(message: "Message") -> Packet:
    """Return what a site's reply says, and empty the message."""
    if message.has_error():
        return None
    try:
        return parts_of(message.content)
    except WireError as problem:
        return problem
    finally:
        release(message.content)


def unpack_request(content: "RecordDict") -> tuple[Request, bytes]:
    """Return header and blob of a request; raises WireError for anything else."""
    raw, blob = parts_of(content)
    return request_of(raw), blob


def unpack_reply(content: "RecordDict") -> tuple[Reply, bytes]:
    """Return header and blob of a reply; raises WireError for anything else."""
    raw, blob = parts_of(content)
    return reply_of(raw), blob


def release(content: "RecordDict") -> None:
    """Empty a packet that is no longer needed.

    Flower's records refer to themselves, so Python frees them, and the blob with them, only when it next looks for cycles; by
    then, the replies of many sites would be in memory together.
    """
    for record in content.array_records.values():
        record.clear()
    content.clear()


def _parsed(raw: bytes, most: int = MAX_HEADER_BYTES) -> object:
    if len(raw) > most:  # parsed JSON takes up to eighty times as much memory
        raise WireError(f"Expected a header of at most {most} bytes.", remedy=SAME_VERSION)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise WireError("Expected a JSON header.", remedy=SAME_VERSION) from None
    if isinstance(header, dict):
        check_format(header.get("protocol"), PACKET_FORMAT, what="message", error=WireError)
    return header
