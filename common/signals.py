"""Ctrl-C and SIGTERM: one line and the exit code of the signal, never a traceback.

    start-up       imports, nothing is open yet    the process exits at once
    a command      `unwinding`                     `Stopped` is raised and everything is closed; a second signal does not wait
    a daemon       `unwinding(stop)`               its own `stop` is called; a second signal does not wait
    the end        interpreter shutting down       the process exits at once

Everything that must survive is on disk in transactions, so exiting at once loses nothing.
The exit codes are those of the shell: 130 for Ctrl-C, 143 for SIGTERM. A daemon that was asked to stop exits with 0.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LINES = {signal.SIGINT: "Interrupted.", signal.SIGTERM: "Terminated."}


class Stopped(BaseException):
    """Ctrl-C or SIGTERM.

    Not an `Exception`, so that nothing takes it for a failure; not a `KeyboardInterrupt`, which the command-line library
    would handle itself.

    Args:
        number: signal number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number
        self.line = LINES.get(signal.Signals(number), "Stopped.")


def leave_at_once() -> None:
    """Let both signals end the process with one line; used while nothing is open."""
    _install(_leave)


@contextlib.contextmanager
def unwinding(stop: Callable[[], None] | None = None) -> Iterator[None]:
    """Let the first signal raise `Stopped` or call `stop`, and the second one end the process.

    Does nothing outside the main thread, where Python delivers no signals.
    """

    def first(number: int, frame: FrameType | None) -> None:
        _install(_leave)
        if stop is None:
            raise Stopped(number)
        stop()

    before = _install(first)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def starting_child() -> Iterator[None]:
    """Start a child of `multiprocessing` in this block: a signal waits until the start is complete. Ctrl-C, which
    the terminal sends to the whole process group, never reaches the child, where it would cause a traceback; the parent ends it.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # otherwise it would be started later with another signal mask
    came: list[int] = []
    before = _install(lambda number, frame: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child inherits this
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


@contextlib.contextmanager
def saying(text: str) -> Iterator[None]:
    """Add a sentence to the message if a signal stops this block: what continues without it, or how to resume."""
    try:
        yield
    except Stopped as stopped:
        stopped.line += f" {text}"
        raise


def _install(handler: Callable[[int, FrameType | None], None]) -> dict[int, "signal._HANDLER"]:
    """Set a handler for both signals and return the previous ones; an ignored signal, as under nohup, stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: former for number, former in before.items() if former not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    return {int(number): former for number, former in before.items()}


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{LINES.get(signal.Signals(number), 'Stopped.')}\n".encode())
    os._exit(128 + number)
