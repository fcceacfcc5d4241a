"""A worker as a child process on this machine, over a pair of connected sockets."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from salus.client.executors.base import START_S, NotStarted
from salus.client.executors.channels import SocketChannel
from salus.client.executors.frames import TO_DAEMON
from salus.common.process import without_proxies

BOOT = """\
import json, sys
sys.path[:] = json.loads(sys.argv.pop(1))
from salus.client.executors.worker import main
main(sys.argv[1:])
"""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Process(Protocol):
    """The methods of `subprocess.Popen` that are used here."""

    @property
    def pid(self) -> int:
        """Its id."""

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""

    def wait(self) -> int:
        """Wait for its end."""

    def kill(self) -> None:
        """Send it SIGKILL."""


Launch = Callable[[Sequence[str], int, Mapping[str, str]], Process]


def spawn(words: Sequence[str], descriptor: int, environment: Mapping[str, str]) -> Process:
    """Start a worker in a new interpreter, in a session of its own: Ctrl-C in a terminal goes to the daemon only.

    Nothing is imported from the folder in which the daemon was started (``-P``), and the environment is without the proxy,
    whose password is nothing that a process with images needs.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-c", BOOT, json.dumps(sys.path), *words],
        stdin=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        start_new_session=True,
        env={**without_proxies(os.environ), **environment},
    )


class ProcessBackend:
    """Starts workers on this machine.

    Args:
        memory_mb: most memory of one, in MB; 0 for no limit.
        threads: CPU threads of its libraries; 0 leaves the choice to them.
        launch: how a process starts; None for a new interpreter.
    """

    local = True
    start_s = START_S

    def __init__(self, folder: Path, *, memory_mb: int = 0, threads: int = 0, launch: Launch | None = None) -> None:
        self._folder, self._memory_mb = folder.absolute(), memory_mb
        self._launch = launch or spawn
        self._environment = dict.fromkeys(THREADS, str(threads)) if threads else {}

    def start(self) -> "ProcessRun":
        """Start a worker; raises NotStarted if the machine has no process left for it."""
        ours, theirs = socket.socketpair()
        words = ["socket", str(self._folder), str(theirs.fileno()), str(self._memory_mb), str(os.getpid())]
        try:
            return ProcessRun(self._launch(words, theirs.fileno(), self._environment), ours)
        except OSError as problem:
            ours.close()
            raise NotStarted(f"The site's process for work cannot start ({problem.strerror}).") from None
        finally:
            theirs.close()


class ProcessRun:
    """A running child."""

    def __init__(self, process: Process, ours: socket.socket) -> None:
        self._process = process
        self.channel = SocketChannel(ours, TO_DAEMON)

    @property
    def process_id(self) -> int | None:
        """Its process id."""
        return self._process.pid

    def ended(self) -> str:
        """Return how it has ended; empty while it runs."""
        code = self._process.poll()
        if code is None:
            return ""
        if code == -signal.SIGKILL:
            return "It was killed (SIGKILL), perhaps because the machine had no memory left."
        return f"It was ended by signal {-code}." if code < 0 else f"It ended with exit code {code}."

    def kill(self) -> None:
        """Kill it and wait for its end."""
        self._process.kill()
        self._process.wait()
        self.channel.close()
