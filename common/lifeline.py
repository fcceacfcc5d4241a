"""Ties a child process to its parent: when the parent dies, however it dies, the child ends itself.

The parent keeps the writing end of the child's standard input and never writes. The kernel closes it with the parent, also
after ``kill -9``, and the child reads the end of the file. Works on every POSIX system and does not depend on threads.
"""

import os
import signal
import sys
import threading

GRACE_S = 10.0  # for the orderly end; then the process is ended without it


def watch() -> None:
    """Send this process SIGTERM when standard input ends, and end it for good `GRACE_S` later."""
    threading.Thread(target=_wait, name="lifeline", daemon=True).start()


def _wait() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE_S)
    os._exit(1)
