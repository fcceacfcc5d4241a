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
PATIENCE = 20.0  # seconds by the wall clock for one of the other side's: a busy machine must not refuse a good file
LONGEST_S = 3600.0  # one operation; a child that was taken over could ask for the same large file for weeks
MOST_PATIENCE_S = 4 * LONGEST_S
Buffer = bytes | bytearray | memoryview


def cpu_clock(process_id: int) -> Callable[[], float]:
    """Return a clock that shows the processor time that a process has used, in seconds; the wall clock where there is none.

    The process of a decoder has one thread and cannot start another, so that its time never passes faster than by the wall.
    """
    number = (~process_id << 3) | 2  # as clock_getcpuclockid(3) computes it on Linux

    def used() -> float:
        try:
            return time.clock_gettime(number)
        except OSError:
            return 0.0  # the process has ended, which its pipe says

    try:
        time.clock_gettime(number)
    except OSError:
        return time.monotonic
    return used


class ProtocolError(Exception):
    """The other side sent something other than a frame, or a frame beyond the limits."""


class Channel:
    """One end of the connection.

    Args:
        incoming, outgoing: descriptors of the two pipes; closed with the channel.
        clock: enforce time limits on this clock, see `cpu_clock`; for the side that does not trust the other.
    """

    def __init__(self, incoming: int, outgoing: int, *, clock: Callable[[], float] | None = None) -> None:
        self._in, self._out = incoming, outgoing
        self._clock = clock or time.monotonic
        self._began = self._base = 0.0
        self.deadline = self._latest = float("inf")
        if clock is not None:
            os.set_blocking(incoming, False)
            os.set_blocking(outgoing, False)

    def begin(self, seconds: float) -> None:
        """Start an operation that may take so many seconds of the clock, and longer only for data that move.

        It may take `PATIENCE` times as long by the wall clock: a process that gets no processor, or waits for ever, uses none.
        """
        self._began, self._base = time.monotonic(), self._clock()
        self.deadline, self._latest = self._base + seconds, self._base + max(seconds, LONGEST_S)

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
                remaining = self.deadline - self._clock()
                allowed = min(PATIENCE * (self.deadline - self._base), MOST_PATIENCE_S)
                patience = allowed - (time.monotonic() - self._began)
                if min(remaining, patience) <= 0:
                    raise TimeoutError from None
                poll = select.poll()
                poll.register(handle, event)
                # The other side cannot use up its time faster than time passes, unless it has several threads.
                waiting = min(remaining, patience)
                poll.poll(None if remaining == float("inf") else max(1.0, waiting * 1000))
