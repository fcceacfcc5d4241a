"""Frames over two pipes between a site's process and its decoding child.

    frame = kind (1 byte), length of the header (4 bytes), length of the body (8 bytes), header (JSON), body (raw bytes)

Lengths are checked against a limit before anything is allocated. Nothing is pickled or evaluated.
"""

import os
import select
import struct
import time
from collections.abc import Callable

HEAD = struct.Struct("<cIQ")
MAX_HEADER_BYTES = 16 * 2**20  # a page of two thousand records, or of file names
CHUNK = 2**20
LONGEST_S = 3600.0  # one operation; a child that was taken over could ask for the same large file for weeks
Buffer = bytes | bytearray | memoryview


class ProtocolError(Exception):
    """The other side sent something other than a frame, or a frame beyond the limits."""


class Channel:
    """One end of the connection.

    Args:
        incoming, outgoing: descriptors of the two pipes; closed with the channel.
        deadlines: enforce `deadline`; for the side that does not trust the other.
    """

    def __init__(self, incoming: int, outgoing: int, *, deadlines: bool = False) -> None:
        self._in, self._out = incoming, outgoing
        self.deadline = self._latest = float("inf")
        if deadlines:
            os.set_blocking(incoming, False)
            os.set_blocking(outgoing, False)

    def begin(self, now: float, seconds: float) -> None:
        """Start an operation that may take so many seconds, and longer only for data that move."""
        self.deadline, self._latest = now + seconds, now + max(seconds, LONGEST_S)

    def extend(self, seconds: float) -> None:
        """Allow more time for data that are sent or received, however often the other side asks for them up to `LONGEST_S`."""
        self.deadline = min(self.deadline + seconds, self._latest)

    def close(self) -> None:
        """Close both pipes."""
        os.close(self._in)
        os.close(self._out)

    def send(self, kind: bytes, header: bytes, *parts: Buffer) -> None:
        """Send one frame.

        Raises:
            TimeoutError: the other side did not take it before the deadline.
            OSError: the other side is gone.
        """
        views = [memoryview(part).cast("B") for part in parts]
        head = HEAD.pack(kind, len(header), sum(view.nbytes for view in views))
        for view in (memoryview(head + header), *views):
            while view.nbytes:
                view = view[self._retried(self._out, select.POLLOUT, lambda view=view: os.write(self._out, view)) :]  # type: ignore[misc]

    def receive(self) -> tuple[bytes, bytes, int]:
        """Return kind and header of a frame, and the length of its body, which is still to be read.

        Raises:
            EOFError: the other side closed the connection.
            ProtocolError: a header beyond the limit.
            TimeoutError: the deadline passed.
        """
        kind, header, body = HEAD.unpack(self.read(HEAD.size))
        if header > MAX_HEADER_BYTES:
            raise ProtocolError
        return kind, bytes(self.read(header)), body

    def read(self, count: int) -> bytearray:
        """Return exactly `count` bytes; errors as in `receive`."""
        data = bytearray(count)
        self.read_into(memoryview(data))
        return data

    def read_into(self, *views: memoryview) -> None:
        """Fill every view; errors as in `receive`."""
        for view in views:
            view = view.cast("B")
            while view.nbytes:
                got = self._retried(self._in, select.POLLIN, lambda view=view: os.readv(self._in, [view[:CHUNK]]))  # type: ignore[misc]
                if got == 0:
                    raise EOFError
                view = view[got:]

    def _retried(self, handle: int, event: int, action: Callable[[], int]) -> int:
        while True:
            try:
                return action()
            except BlockingIOError:
                remaining = self.deadline - time.monotonic()
                poll = select.poll()
                poll.register(handle, event)
                timeout = None if remaining == float("inf") else max(0.0, remaining) * 1000
                if remaining <= 0 or not poll.poll(timeout):
                    raise TimeoutError from None
