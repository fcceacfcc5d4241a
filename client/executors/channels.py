"""Two ways for frames: a pair of connected sockets, or numbered files in a folder that two machines share."""

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from salus.client.executors.frames import HEAD, Frame, damaged, lengths

CHUNK = 2**20
LOOK_S = 0.2  # how often a folder is looked at; a shared folder wakes nobody
SUFFIX, PART = ".frame", ".part"


class Ended(Exception):
    """The other side has gone."""


class NotTaken(Ended):
    """The other side takes nothing, for longer than it may."""


class Channel(Protocol):
    """One end."""

    def limit(self, send_s: float) -> None:
        """Let a frame of which the other side takes nothing for so many seconds fail with NotTaken; 0: never."""

    def send(self, frame: Frame) -> None:
        """Send a frame; raises Ended if nobody can receive it."""

    def receive(self, wait_s: float) -> Frame | None:
        """Return the next frame, or None if it is not complete after `wait_s`.

        Raises:
            Ended: the other side has gone.
            WireError: bytes that are no frame, or one beyond its bound.
        """

    def close(self) -> None:
        """Close this end."""


class SocketChannel:
    """Frames over a connected socket.

    Args:
        known: see `frames.lengths`.
    """

    def __init__(self, end: socket.socket, known: Mapping[bytes, tuple[int, int]]) -> None:
        self._end, self._known = end, known
        self._sending = threading.Lock()
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        self._got = bytearray()
        self._frame: tuple[bytes, int, int] | None = None

    def limit(self, send_s: float) -> None:
        whole = int(send_s)
        # The kernel's own limit: it counts from the last byte taken, and leaves receiving alone.
        limit = struct.pack("@ll", whole, int(1e6 * (send_s - whole)))
        self._end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def send(self, frame: Frame) -> None:
        try:
            with self._sending:
                self._end.sendall(frame.head + frame.header)
                self._end.sendall(memoryview(frame.body))
        except BlockingIOError:
            raise NotTaken from None
        except OSError:
            raise Ended from None

    def receive(self, wait_s: float) -> Frame | None:
        deadline = time.monotonic() + wait_s
        while True:
            missing = self._missing()
            if missing == 0:
                return self._complete()
            if not self._poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
                return None
            try:
                part = self._end.recv(min(missing, CHUNK))
            except OSError:
                raise Ended from None
            if not part:
                raise Ended
            self._got += part  # grows with what arrives: a length alone allocates nothing

    def _missing(self) -> int:
        if self._frame is None and len(self._got) == HEAD.size:
            self._frame = lengths(bytes(self._got), self._known)
            self._got = bytearray()
        wanted = HEAD.size if self._frame is None else self._frame[1] + self._frame[2]
        return wanted - len(self._got)

    def _complete(self) -> Frame:
        assert self._frame is not None  # Safe because nothing is missing only once the lengths are known.
        kind, header, _ = self._frame
        view = memoryview(self._got)
        frame = Frame(kind, bytes(view[:header]), bytes(view[header:]))
        view.release()
        self._got, self._frame = bytearray(), None
        return frame

    def close(self) -> None:
        self._end.close()


class FolderChannel:
    """Frames as files: each is written aside, renamed to its number, read once and deleted.

    Args:
        outgoing, incoming: folders, each written by one side only.
        known: see `frames.lengths`.
    """

    def __init__(self, outgoing: Path, incoming: Path, known: Mapping[bytes, tuple[int, int]]) -> None:
        self._out, self._in, self._known = outgoing, incoming, known
        self._sent = self._received = 0
        self._sending = threading.Lock()

    def limit(self, send_s: float) -> None:
        """A folder takes every frame at once."""

    def send(self, frame: Frame) -> None:
        with self._sending:
            self._sent += 1
            path = self._out / f"{self._sent:09d}{SUFFIX}"
            try:
                with open(path.with_suffix(PART), "xb", opener=_private) as file:
                    for part in (frame.head, frame.header, frame.body):
                        file.write(part)
                    file.flush()
                    os.fsync(file.fileno())
                path.with_suffix(PART).rename(path)
            except OSError:
                raise Ended from None

    def receive(self, wait_s: float) -> Frame | None:
        path = self._in / f"{self._received + 1:09d}{SUFFIX}"
        deadline = time.monotonic() + wait_s
        while not path.exists():
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(LOOK_S, left))
        frame = self._read(path)
        self._received += 1
        with contextlib.suppress(OSError):
            path.unlink()
        return frame

    def _read(self, path: Path) -> Frame:
        try:
            with path.open("rb") as file:
                kind, header, body = lengths(file.read(HEAD.size), self._known)
                if os.fstat(file.fileno()).st_size != HEAD.size + header + body:
                    raise damaged()
                return Frame(kind, file.read(header), file.read(body))
        except OSError:
            raise Ended from None

    def close(self) -> None:
        """Nothing is held open."""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
