"""The requests that wait for sites and the replies that arrive, for version 2 of the protocol.

Part of the link (`server/link.py`). A request is offered to its site until it has been answered: a site states with each
poll which requests it holds, so one that was lost on the way, or with a process, is simply offered again. What all sites
receive is one buffer. A small reply is kept in memory, a large one in an unnamed file, so memory does not grow with sites.
"""

import asyncio
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from flwr.app import Message

from salus.common.progress import Progress, Seen
from salus.server.link_members import Members

PRESENT_S = 60.0  # a site that has not been heard for this long counts as offline; it polls or beats every 20 s at most
SMALL_BYTES = 256 * 2**10  # a reply up to this size is kept in memory
SLICE_BYTES = 256 * 2**10
NUMBER = 4  # bytes of a length in front of a part


@dataclass(eq=False)
class Incoming:
    """A reply that arrives in parts.

    Args:
        total: its size in bytes, already checked against the site's budget.
        folder: where a large one is kept, in a file without a name; None for the system's folder for such files.
    """

    total: int
    folder: Path | None
    received: int = 0
    writer: object = None  # the request that may write now; an older one that is still open may not
    _small: bytearray = field(default_factory=bytearray)
    _file: IO[bytes] | None = None

    def __post_init__(self) -> None:
        if self.total > SMALL_BYTES:
            self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - closed when the reply is dropped

    def write(self, offset: int, part: bytes) -> None:
        """Store bytes that no signature covers yet; `received` tells how many are certain."""
        if self._file is None:
            self._small[offset : offset + len(part)] = part
            return
        while part:
            written = os.pwrite(self._file.fileno(), part, offset)
            offset, part = offset + written, part[written:]

    def read(self) -> tuple[bytes, bytes]:
        """Return header and blob; raises ValueError for bytes that are not a reply."""
        return split(bytes(self._small)) if self._file is None else self._read_file(self._file)

    def _read_file(self, file: IO[bytes]) -> tuple[bytes, bytes]:
        size = int.from_bytes(os.pread(file.fileno(), NUMBER, 0), "big")
        if size > self.total - NUMBER:
            raise ValueError("A part is longer than the whole.")
        file.seek(NUMBER)
        return file.read(size), file.read(self.total - NUMBER - size)

    def close(self) -> None:
        """Drop it."""
        if self._file is not None:
            self._file.close()


def split(body: bytes) -> tuple[bytes, bytes]:
    """Return the two parts of ``length, header, blob``; raises ValueError if the length is wrong."""
    size = int.from_bytes(body[:NUMBER], "big")
    if len(body) < NUMBER or size > len(body) - NUMBER:
        raise ValueError("A part is longer than the whole.")
    return body[NUMBER : NUMBER + size], body[NUMBER + size :]


@dataclass(eq=False)
class Letter:
    """One request to one site.

    Args:
        message: the request, with the metadata under which the reply is passed on.
        header, blob: its content; the same objects for every site that receives the same.
        budget: largest reply in bytes.
        done: called once, when the whole reply has arrived; from the thread of the server.
    """

    message: Message
    header: bytes
    blob: bytes
    budget: int
    done: Callable[["Letter"], None]
    delivered: bool = False
    answered: bool = False
    reply: Incoming | None = None
    identifier: str = field(init=False)  # of the message, and the node to which it goes: Flower's own are slow to read
    node: int = field(init=False)

    def __post_init__(self) -> None:
        self.identifier, self.node = self.message.metadata.message_id, self.message.metadata.dst_node_id

    def prefix(self) -> bytes:
        """Return everything in front of the blob: lengths, metadata and header."""
        known = self.message.metadata
        meta = json.dumps(
            {
                "message": known.message_id,
                "type": known.message_type,
                "run": str(known.run_id),
                "node": str(known.dst_node_id),
                "group": known.group_id,
                "created": known.created_at,
                "ttl": known.ttl,
            }
        ).encode()
        return b"".join(
            [len(meta).to_bytes(NUMBER, "big"), meta, len(self.header).to_bytes(NUMBER, "big"), self.header]
        )

    def slices(self, prefix: bytes, offset: int) -> Iterator[bytes | memoryview]:
        """Return the whole from `offset` on, in slices of the shared buffer."""
        if offset < len(prefix):
            yield prefix[offset:]
        blob = memoryview(self.blob)
        for start in range(max(0, offset - len(prefix)), len(blob), SLICE_BYTES):
            yield blob[start : start + SLICE_BYTES]


class Mailbox:
    """Open requests and present sites; may be used from any thread."""

    def __init__(self, members: Members, folder: Path | None = None) -> None:
        self._members, self._folder = members, folder
        self._lock = threading.RLock()
        self._letters: dict[int, dict[str, Letter]] = {}
        self._waiting: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}
        self._heard_s: dict[int, float] = {}
        self._progress: dict[int, Seen] = {}
        self.closed = False

    def close(self) -> None:
        """End every poll that waits, and any later one at once."""
        self.closed = True
        with self._lock:
            nodes = list(self._waiting)
        for node in nodes:
            self.ring(node)

    # --- sites ---

    def heard(self, node: int, progress: Progress | None = None) -> None:
        """Remember that a site has been heard now, and what it does."""
        now = time.monotonic()
        with self._lock:
            if self._members.at(node) is not None:
                self._heard_s[node] = now
                self._progress[node] = Seen(progress or Progress(), now)

    def forget_site(self, node: int) -> None:
        """Count a site as offline, as it said itself or because it is no longer a member."""
        with self._lock:
            self._heard_s.pop(node, None)
            self._progress.pop(node, None)

    def present(self) -> set[int]:
        """Return the nodes of the sites that have been heard lately."""
        oldest = time.monotonic() - PRESENT_S
        with self._lock:
            return {node for node, at in self._heard_s.items() if at >= oldest}

    def progress(self) -> dict[int, Seen]:
        """Return what each present site said last, by node."""
        present = self.present()
        with self._lock:
            return {node: seen for node, seen in self._progress.items() if node in present}

    # --- requests ---

    def put(self, letter: Letter) -> None:
        """Offer a request to its site."""
        with self._lock:
            self._letters.setdefault(letter.node, {})[letter.identifier] = letter
            waiting = self._waiting.get(letter.node)
        if waiting is not None:
            waiting[0].call_soon_threadsafe(waiting[1].set)

    def ring(self, node: int) -> None:
        """End the poll that waits for this node, so that it looks again."""
        with self._lock:
            waiting = self._waiting.get(node)
        if waiting is not None:
            waiting[0].call_soon_threadsafe(waiting[1].set)

    def find(self, node: int, identifier: str) -> Letter | None:
        """Return a request of this node that is open or has been answered and not been taken away yet."""
        with self._lock:
            return self._letters.get(node, {}).get(identifier)

    def take(self, node: int, held: Collection[str]) -> Letter | None:
        """Return the oldest request that the site neither holds nor has answered."""
        with self._lock:
            for letter in self._letters.get(node, {}).values():
                if not letter.answered and letter.identifier not in held:
                    letter.delivered = True
                    return letter
        return None

    def drop(self, letter: Letter) -> None:
        """Take a request away, and what has arrived of its reply."""
        with self._lock:
            self._letters.get(letter.node, {}).pop(letter.identifier, None)
            letter.answered = True
            reply, letter.reply = letter.reply, None
        if reply is not None:
            reply.close()

    def incoming(self, letter: Letter, offset: int, total: int) -> Incoming | None:
        """Return the reply that a part belongs to, or None if parts before this one are missing."""
        with self._lock:
            if letter.reply is None or (offset == 0 and letter.reply.total != total):
                if letter.reply is not None:
                    letter.reply.close()
                letter.reply = Incoming(total, self._folder)
            reply = letter.reply
            if reply.total != total or offset > reply.received:
                return None
            reply.received = offset  # a part that is sent once more, because the answer to it was lost
            return reply

    def complete(self, letter: Letter) -> None:
        """Pass a whole reply on, once."""
        with self._lock:
            if letter.answered:
                return
            letter.answered = True
            seen = self._progress.get(letter.node)
            if seen is not None and seen.progress.request == letter.identifier:  # its next poll has not come yet
                self._progress[letter.node] = Seen(Progress(), seen.at_s)
        letter.done(letter)

    # --- a site's poll ---

    def waiter(self, node: int) -> asyncio.Event:
        """Return the event of a new poll of this node; an older poll, whose connection may be dead, ends."""
        event = asyncio.Event()
        with self._lock:
            older = self._waiting.get(node)
            self._waiting[node] = (asyncio.get_running_loop(), event)
            if self.closed:
                event.set()
        if older is not None:
            older[0].call_soon_threadsafe(older[1].set)
        return event

    def is_newest(self, node: int, event: asyncio.Event) -> bool:
        """Whether no later poll of this node has begun."""
        waiting = self._waiting.get(node)
        return waiting is not None and waiting[1] is event

    def leave(self, node: int, event: asyncio.Event) -> None:
        """End a poll."""
        with self._lock:
            if self.is_newest(node, event):
                del self._waiting[node]
