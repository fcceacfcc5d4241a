"""Ties a child process to its parent: when the parent ends for any reason, the child exits.

The parent holds the writing end of the child's standard input and never writes. The kernel closes it when the parent ends,
even after ``kill -9``, and the child then reads end of file. Works on every POSIX system and does not depend on threads.
"""

import os
import signal
import sys
import threading

GRACE_S = 10.0  # seconds for an orderly shutdown before the process is killed


def watch() -> None:
    """Send this process SIGTERM when standard input ends, and kill it `GRACE_S` later."""
    threading.Thread(target=_wait, name="lifeline", daemon=True).start()


def _wait() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE_S)
    os._exit(1)
