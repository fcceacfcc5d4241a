"""Frames between a site's daemon and its worker: bytes with bounds, whichever way they travel.

frame = kind (1 byte), length of the header (4 bytes), length of the body (8 bytes), header, body

to the worker    request    header of a request, see `common.packets`; body: its blob
                 look       -                        (is the data in order? answered with a state)
to the daemon    ready      -                        (it can take requests)
                 failed     JSON: error, text, exit code; the last frame of a worker that cannot start
                 event      JSON: kind, fields       (for the site's log)
                 progress   JSON: step, percent
                 state      JSON: troubles, open     (problems with data; whether a protected sum is under way)
                 reply      header of a reply; body: its blob
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from salus.common.canonical import canonical_json
from salus.common.errors import WireError
from salus.common.packets import MAX_HEADER_BYTES

HEAD = struct.Struct(">cIQ")
REQUEST, LOOK = b"q", b"l"
READY, FAILED, EVENT, PROGRESS, STATE, REPLY = b"y", b"f", b"e", b"p", b"s", b"r"
SMALL, EVENT_BYTES = 2**16, 2**18
MOST_BODY_BYTES = 8 * 2**30  # as a message on the link
TO_WORKER: Mapping[bytes, tuple[int, int]] = {REQUEST: (MAX_HEADER_BYTES, MOST_BODY_BYTES), LOOK: (0, 0)}
TO_DAEMON: Mapping[bytes, tuple[int, int]] = {
    READY: (0, 0),
    FAILED: (SMALL, 0),
    EVENT: (EVENT_BYTES, 0),
    PROGRESS: (SMALL, 0),
    STATE: (SMALL, 0),
    REPLY: (MAX_HEADER_BYTES, MOST_BODY_BYTES),
}


@dataclass(frozen=True)
class Frame:
    """One frame."""

    kind: bytes
    header: bytes = b""
    body: bytes = b""

    @property
    def head(self) -> bytes:
        """The bytes that come first."""
        return HEAD.pack(self.kind, len(self.header), len(self.body))

    def values(self) -> dict[str, Any]:
        """Return the header as a JSON object; raises WireError for anything else."""
        try:
            found = json.loads(self.header)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise damaged()
        return found


def frame_of(form: bytes, /, **values: object) -> Frame:
    """Return a frame of this kind with a JSON header."""
    return Frame(form, canonical_json(values))


def lengths(head: bytes, known: Mapping[bytes, tuple[int, int]]) -> tuple[bytes, int, int]:
    """Return kind, length of the header and length of the body of a frame.

    Args:
        known: the kinds that may come, each with the most bytes of header and body.

    Raises:
        WireError: an unknown kind, or a length beyond its bound.
    """
    if len(head) != HEAD.size:
        raise damaged()
    kind, header, body = HEAD.unpack(head)
    most = known.get(kind)
    if most is None or header > most[0] or body > most[1]:
        raise damaged()
    return kind, header, body


def damaged() -> WireError:
    """Return the error for bytes that are no frame."""
    return WireError("Expected a frame of the site's own process.", remedy="Restart the site's daemon.")
