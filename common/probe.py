"""The question that `salus doctor` asks over the link: who answers, what time it is there, and how fast bytes go and come.

It is signed like every request of a site, changes nothing at the coordinator and does not touch the site's own connection, so
it may be asked while a job runs.

    request   one line of JSON, then any number of bytes that are counted and dropped
    answer    one line of JSON, then as many bytes as were asked for
"""

import os
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from salus.common.canonical import canonical_json
from salus.common.errors import WireError
from salus.common.strict import Strict
from salus.common.versions import OLDEST_PROTOCOL, PROTOCOL

PROBE = "/v1/salus/probe"
MAX_PADDING = 4 * 2**20
MAX_LINE = 4096
MAX_PROBE_BYTES = MAX_PADDING + MAX_LINE
M = TypeVar("M", bound=Strict)


class ProbeRequest(Strict):
    """What a site asks.

    Args:
        answer_bytes: how many bytes shall follow the answer.
    """

    format: Literal[1] = 1
    answer_bytes: Annotated[int, Field(ge=0, le=MAX_PADDING)] = 0


class ProbeAnswer(Strict):
    """What a coordinator answers.

    Args:
        time: its time, ISO 8601 with a time zone.
        version: of its Salus.
        roster: serial of its newest roster.
        protocol, oldest_protocol: the newest and the oldest version of the link's protocol that it speaks.
    """

    format: Literal[1] = 1
    time: Annotated[str, Field(max_length=40)]
    version: Annotated[str, Field(max_length=40, pattern=r"^[0-9A-Za-z.+-]+$")]
    roster: Annotated[int, Field(ge=0, le=10**9)]
    protocol: Annotated[int, Field(ge=0, le=10**6)] = PROTOCOL
    oldest_protocol: Annotated[int, Field(ge=0, le=10**6)] = OLDEST_PROTOCOL


def pack_probe(document: ProbeRequest | ProbeAnswer, padding: int) -> bytes:
    """Return a document with `padding` random bytes, which no proxy can compress."""
    return canonical_json(document.model_dump(mode="json")) + b"\n" + os.urandom(padding)


def read_probe_request(body: bytes) -> ProbeRequest:
    """Return the request in a body; raises WireError."""
    return _read(ProbeRequest, body)


def read_probe_answer(body: bytes) -> ProbeAnswer:
    """Return the answer in a body; raises WireError."""
    return _read(ProbeAnswer, body)


def _read(model: type[M], body: bytes) -> M:
    line = body[:MAX_LINE].partition(b"\n")[0]
    try:
        return model.model_validate_json(line)
    except ValueError:
        raise WireError("Expected one line of JSON.", remedy="Both sides must run versions that fit.") from None
