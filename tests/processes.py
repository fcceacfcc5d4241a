"""Child processes of tests: they die with the test run, and waiting for them ends with an event, not with a guess.

Limits here are backstops against a hang, far above what a busy machine needs; no test passes or fails by them.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

BACKSTOP_S = 900.0
POLL_S = 0.02
PR_SET_PDEATHSIG = 1
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
