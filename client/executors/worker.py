"""The process that works: opens the site's folder once, then answers one request after another until nobody asks any more.

It ends when the daemon does: over sockets by their end, which it notices even while it trains, and by the kernel's signal on the
death of its parent. At most one runs for a folder: it holds a lock that the kernel releases.
"""

import contextlib
import fcntl
import os
import platform
import queue
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from salus.client.executors.channels import Channel, Ended, FolderChannel, SocketChannel
from salus.client.executors.frames import (
    EVENT,
    EVENT_BYTES,
    FAILED,
    LOOK,
    PROGRESS,
    READY,
    REPLY,
    SMALL,
    STATE,
    TO_WORKER,
    Frame,
    frame_of,
)
from salus.common import signals
from salus.common.errors import ConfigError, SalusError, WireError, describe, where
from salus.common.events import UNWRITABLE, EventSink, Value
from salus.common.packets import Reply, Request, header_of, request_of
from salus.common.process import prctl, protect_memory
from salus.common.progress import Progress, Reporter

if TYPE_CHECKING:
    from salus.client.data.troubles import Trouble

LOCK = "worker.lock"
LOCK_S = 60.0  # that an earlier worker may take to end
QUIET_S = 300.0  # without a sign of the daemon in a shared folder
ALIVE = "alive"
PR_SET_PDEATHSIG = 1


class Events:
    """Sends a site's events to the daemon, which writes the log."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def emit(self, kind: str, **fields: Value) -> None:
        """Send one event; one that is too long, or holds something that JSON cannot, loses its fields."""
        try:
            frame = frame_of(EVENT, kind=kind, fields=fields)
        except ValueError:
            frame = frame_of(EVENT, kind=kind, fields={"text": UNWRITABLE})
        if len(frame.header) > EVENT_BYTES:
            frame = frame_of(EVENT, kind=kind, fields={"text": "The event is too long for the log."})
        with contextlib.suppress(Ended):  # the daemon is gone, and this process is about to be ended for it
            self._channel.send(frame)


class Works(Protocol):
    """What a worker needs of a `client.site.Site`."""

    @property
    def session_open(self) -> bool:
        """Whether a protected sum is under way."""

    def handle(self, request: Request, blob: bytes) -> tuple[Reply, bytes]:
        """Answer one request."""

    def troubles(self) -> "list[Trouble]":
        """Return the problems with data."""

    def recheck(self) -> None:
        """Look whether they are resolved."""


Opener = Callable[[Path, EventSink, Reporter], Works]


def open_site(folder: Path, events: EventSink, reporter: Reporter) -> Works:
    """Open a site's folder; this imports everything that training needs."""
    from salus.client.config import SiteFolder
    from salus.common.clock import SystemClock

    clock = SystemClock()
    opened = SiteFolder.open(folder, clock)
    _share_gpu(opened.config.executor.gpu_share)
    return opened.site(events, clock, reporter)


def serve(channel: Channel, folder: Path, frames: Callable[[], Frame], opener: Opener) -> None:
    """Open the folder, then answer for as long as this process lives; raises Ended if nobody receives the answers.

    Args:
        frames: waits for the next frame.
    """
    try:
        site = opener(folder, Events(channel), Reporter(lambda progress: _report(channel, progress)))
        site.recheck()
    except Exception as problem:
        code = problem.exit_code if isinstance(problem, SalusError) else 1
        text = describe(problem)[: SMALL // 8]
        channel.send(frame_of(FAILED, error=type(problem).__name__, text=text, exit_code=code))
        return
    channel.send(_state(site))
    channel.send(Frame(READY))
    while True:
        frame = frames()
        if frame.kind == LOOK:
            site.recheck()
            channel.send(_state(site))
        else:
            header, body = _answer(site, frame)
            del frame  # a model's bytes
            channel.send(_state(site))
            channel.send(Frame(REPLY, header, body))


def _answer(site: Works, frame: Frame) -> tuple[bytes, bytes]:
    request = request_of(frame.header)
    reply, blob = site.handle(request, frame.body)
    return header_of(reply), blob


def _state(site: Works) -> Frame:
    lines = [trouble.line[:500] for trouble in site.troubles()[:20]]
    return frame_of(STATE, troubles=lines, open=site.session_open)


def _report(channel: Channel, progress: Progress) -> None:
    with contextlib.suppress(Ended):  # as in `Events`
        channel.send(frame_of(PROGRESS, step=progress.step, percent=progress.percent))


def _share_gpu(share: float) -> None:
    """Let this process use at most this part of each GPU's memory."""
    if share == 1.0:
        return
    import torch

    for device in range(torch.cuda.device_count()):
        torch.cuda.set_per_process_memory_fraction(share, device)


@contextlib.contextmanager
def only_worker(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder's worker; waits for an earlier worker that is about to end.

    Raises:
        ConfigError: another one works for longer than `LOCK_S`.
    """
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"Another process works for the site in {folder.name!r}.",
                        remedy="Stop it, or wait for its end.",
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(handle)


def reading(channel: Channel, alive: Callable[[], bool], leave: Callable[[], None]) -> Callable[[], Frame]:
    """Read frames in a thread, so that the daemon's end is noticed while the main thread trains; return what waits for one.

    Args:
        alive: asked about once a second, whether the daemon is still there.
        leave: called when it is not.
    """
    waiting: queue.Queue[Frame] = queue.Queue(maxsize=1)

    def read() -> None:
        while True:
            try:
                frame = channel.receive(1.0)
            except (Ended, WireError):
                return leave()
            if frame is not None:
                waiting.put(frame)
            elif not alive():
                return leave()

    threading.Thread(target=read, name="frames", daemon=True).start()
    return waiting.get


def limit_memory(memory_mb: int) -> None:
    """Limit the memory of this process, and let the kernel end it first if the machine has none left."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")
    if memory_mb:
        most = memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def over_socket(folder: Path, descriptor: int, parent: int, memory_mb: int, opener: Opener) -> None:
    """Work as a child of the daemon.

    Args:
        descriptor: of the connected socket.
        parent: process id of the daemon.
    """
    if platform.system() == "Linux":
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)
    signals.leave_at_once()
    protect_memory()
    limit_memory(memory_mb)
    channel = SocketChannel(socket.socket(fileno=descriptor), TO_WORKER)
    frames = reading(channel, alive=lambda: True, leave=lambda: os._exit(1))
    _work(channel, folder, frames, opener)


def over_folder(folder: Path, run: Path, memory_mb: int, opener: Opener) -> None:
    """Work on another machine, with frames in the folder `run`, until its file ``alive`` does not change any more."""
    signals.leave_at_once()
    protect_memory()
    limit_memory(memory_mb)
    channel = FolderChannel(run / "replies", run / "requests", TO_WORKER)
    frames = reading(channel, Pulse(run / ALIVE), lambda: os._exit(1))
    _work(channel, folder, frames, opener)


class Pulse:
    """Whether the daemon still writes its file; by this machine's own clock, because the other one's may be wrong."""

    def __init__(self, path: Path) -> None:
        self._path, self._last, self._since = path, b"", time.monotonic()

    def __call__(self) -> bool:
        try:
            now = self._path.read_bytes()
        except OSError:
            return False  # the daemon has ended this run
        if now != self._last:
            self._last, self._since = now, time.monotonic()
        return time.monotonic() - self._since < QUIET_S


def _work(channel: Channel, folder: Path, frames: Callable[[], Frame], opener: Opener) -> None:
    try:
        with only_worker(folder):
            serve(channel, folder, frames, opener)
    except ConfigError as problem:
        channel.send(
            frame_of(FAILED, error=type(problem).__name__, text=describe(problem), exit_code=problem.exit_code)
        )
    except Ended:
        pass
    except Exception as problem:  # its text, and a traceback, may quote data
        os.write(2, f"salus: {type(problem).__name__} in the process for work, at {where(problem)}\n".encode())
        os._exit(1)


def main(words: Sequence[str], opener: Opener = open_site) -> None:
    """Start from the words of a command line: kind, folder, place, memory in MB and, of a child, its parent."""
    kind, folder, place, memory, *parent = words
    if kind == "socket":
        over_socket(Path(folder), int(place), int(parent[0]), int(memory), opener)
    else:
        over_folder(Path(folder), Path(place), int(memory), opener)


if __name__ == "__main__":
    main(sys.argv[1:])
