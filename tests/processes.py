"""Child processes of tests: they die with the test run, and waiting for them ends with an event, not with a guess.

Limits here are backstops against a hang, far above what a busy machine needs; no test passes or fails by them.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

from salus.client.data.dicom import isolation
from salus.client.executors.worker import Opener, main, open_site
from salus.simulations import engine

BACKSTOP_S = 900.0
POLL_S = 0.02
PR_SET_PDEATHSIG = 1
FORKED = multiprocessing.get_context("forkserver")  # children begin with everything imported, which takes seconds
engine.PRELOADED += [
    "pytest", "salus.client.daemon", "salus.server.daemon", "salus.cli", "dp_accounting.pld", "dp_accounting.rdp",
    "salus.client.executors.worker", "salus.client.site", "salus.client.rosters", "salus.client.session_store",
]  # fmt: skip
FORKED.set_forkserver_preload(engine.PRELOADED)
_LIBC = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start(command: Sequence[str | Path], **options: object) -> "subprocess.Popen[bytes]":
    """Start a program that is killed when this process dies; keywords as of `subprocess.Popen`."""
    return subprocess.Popen([str(word) for word in command], preexec_fn=_die_with_parent, **options)  # type: ignore[call-overload, no-any-return]


@contextlib.contextmanager
def running(command: Sequence[str | Path], **options: object) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a program and kill it at the end of the block."""
    process = start(command, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(
    true: Callable[[], bool], what: str, *, process: "subprocess.Popen[bytes] | None" = None, wait_s: float = BACKSTOP_S
) -> None:
    """Wait for an event; fails at once when `process` has ended, and after the backstop."""
    deadline = time.monotonic() + wait_s
    while not true():
        assert process is None or process.poll() is None, f"The process ended before {what}."
        assert time.monotonic() < deadline, f"Waited {wait_s:.0f} s for {what}."
        time.sleep(POLL_S)


def ended(pid: int, wait_s: float = BACKSTOP_S) -> bool:
    """Return whether a process that is not our child has ended, or is a zombie, within `wait_s`."""
    deadline = time.monotonic() + wait_s
    while _alive(pid):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return True


def salus(*words: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a `salus` command in a process of its own, for tests in which the process is the point."""
    return subprocess.run(
        [sys.executable, "-m", "salus.cli", *map(str, words)],
        capture_output=True, text=True, cwd=cwd, timeout=BACKSTOP_S, stdin=subprocess.DEVNULL,
        preexec_fn=_die_with_parent, env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip


@contextlib.contextmanager
def forked_by(server: forkserver.ForkServer | None) -> Iterator[None]:
    """Let another server than the usual one fork the processes that are started in the block."""
    usual = forkserver.connect_to_new_process
    if server is not None:
        forkserver.connect_to_new_process = server.connect_to_new_process
    try:
        yield
    finally:
        forkserver.connect_to_new_process = usual


class Forked:
    """A `salus` daemon without the start of an interpreter; see `salus.simulations.trial.Daemon`.

    Args:
        before: called in the new process before anything else; a function of a module, or a `functools.partial` of one.
        server: forks the process; None for the usual one.
    """

    def __init__(
        self,
        words: Sequence[str],
        log: Path,
        before: Callable[[], None] | None = None,
        server: forkserver.ForkServer | None = None,
    ) -> None:
        ends, self._lifeline = FORKED.Pipe(duplex=False)
        self._process = FORKED.Process(target=_daemon, args=(words, log, ends, before), daemon=True)
        with forked_by(server):
            self._process.start()
        ends.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None  # It has been started.
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        self._lifeline.close()
        return code

    def send_signal(self, sig: int, /) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkedWorker:
    """A site's worker without the start of an interpreter; see `salus.client.executors.process.Process`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self) -> int:
        code = self._ended(0)
        assert code is not None  # It was waited for.
        return code

    def kill(self) -> None:
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)

    def _ended(self, options: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, options)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


def fork_worker(
    words: Sequence[str], descriptor: int, environment: Mapping[str, str], opener: Opener = open_site
) -> ForkedWorker:
    """Start a site's worker with everything imported."""
    isolation.shared_child.cache_clear()  # a decoder of this process is not the worker's
    isolation._starter.cache_clear()

    pid = os.fork()
    if pid == 0:
        try:
            os.closerange(3, descriptor)  # above all the daemon's lock
            os.closerange(descriptor + 1, 4096)
            os.setsid()
            main(words, opener)
        finally:
            os._exit(1)
    return ForkedWorker(pid)


def _daemon(words: Sequence[str], log: Path, lifeline: Connection, before: Callable[[], None] | None = None) -> None:
    """What `salus.simulations.trial.launch` does in a new interpreter."""
    from salus.__main__ import main
    from salus.client.executors import process
    from salus.common.lifeline import watch

    process.spawn = fork_worker

    os.dup2(lifeline.fileno(), sys.stdin.fileno())
    with log.open("ab") as output:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
    sys.argv = ["salus", *words]
    watch()
    if before is not None:
        before()
    main()
