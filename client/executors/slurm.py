"""A worker as a Slurm job on a cluster whose nodes share the site's folder.

    <site>/slurm/<run>/requests, replies    frames as files, see `channels.FolderChannel`
    <site>/slurm/<run>/alive                written by the daemon; a worker whose daemon is silent ends by itself

The commands of Slurm get lists of arguments, and no shell sees a path or an option. Slurm keeps the environment of `sbatch`
with the job, so it gets none of the proxies, whose URLs may have a password.
"""

import contextlib
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from salus.client.executors.base import NotStarted
from salus.client.executors.channels import FolderChannel
from salus.client.executors.frames import TO_DAEMON
from salus.client.executors.settings import ExecutorSettings
from salus.client.executors.worker import ALIVE
from salus.common.errors import ConfigError
from salus.common.files import SHARED
from salus.common.process import without_proxies

NUMBER = re.compile(r"(\d{1,18})(;[\w.-]{1,100})?")
SCRIPT = '#!/bin/sh\nexec "$@"\n'
COMMAND_S = 60.0
LOOK_S = 10.0  # between two calls of squeue; a cluster's controller serves many
SILENT = 30  # calls of squeue in a row without an answer, until the job counts as lost
JOB = "job-id"


class SlurmBackend:
    """Starts workers on the cluster.

    Args:
        settings: options of ``sbatch`` and the interpreter.
    """

    local = False

    def __init__(self, folder: Path, settings: ExecutorSettings) -> None:
        self._folder, self._settings = folder.absolute(), settings
        self.start_s = 60 * settings.start_minutes
        self._runs = self._folder / SHARED
        self._runs.mkdir(mode=0o700, exist_ok=True)
        _check_owner(self._runs)
        for left in self._runs.iterdir():  # by a daemon that was killed
            with contextlib.suppress(OSError):
                _cancel((left / JOB).read_text())
            shutil.rmtree(left, ignore_errors=True)

    def start(self) -> "SlurmRun":
        """Queue a worker; raises NotStarted if Slurm does not take it."""
        run = self._runs / secrets.token_hex(8)
        for part in (run, run / "requests", run / "replies"):
            part.mkdir(mode=0o700)
        (run / "work.sh").write_text(SCRIPT)
        (run / ALIVE).write_text("0")
        python = self._settings.python or sys.executable
        worker = [python, "-P", "-m", "salus.client.executors.worker"]
        words = ["folder", str(self._folder), str(run), str(self._settings.memory_mb)]
        own = ["--parsable", "--job-name=salus", "--no-requeue", f"--chdir={run}", f"--output={run / 'worker.log'}"]
        try:
            done = _call(["sbatch", *self._settings.options, *own, str(run / "work.sh"), *worker, *words])
            found = NUMBER.fullmatch(done.stdout.strip())
            if done.returncode or found is None:
                raise NotStarted(f"Slurm did not take the site's job (sbatch ended with {done.returncode}).")
            (run / JOB).write_text(found[1])
        except BaseException:
            shutil.rmtree(run, ignore_errors=True)
            raise
        return SlurmRun(run, found[1])


class SlurmRun:
    """A job of the cluster."""

    process_id = None

    def __init__(self, run: Path, number: str) -> None:
        self._run, self._number = run, number
        self.channel = FolderChannel(run / "requests", run / "replies", TO_DAEMON)
        self._looked, self._silent, self._beats, self._over = time.monotonic(), 0, 0, ""

    def ended(self) -> str:
        """Return how it has ended; empty while it waits or runs."""
        if self._over or time.monotonic() - self._looked < LOOK_S:
            return self._over
        self._looked = time.monotonic()
        self._beats += 1
        with contextlib.suppress(OSError):
            (self._run / ALIVE).write_text(str(self._beats))
        done = _call(["squeue", "--noheader", f"--jobs={self._number}", "--format=%T"], quiet=True)
        if done.returncode and "Invalid job id" not in done.stderr:
            self._silent += 1
            if self._silent >= SILENT:
                self._over = "Slurm does not answer."
        else:
            self._silent = 0
            if done.returncode or not done.stdout.strip():
                self._over = f"The job {self._number} of the cluster has ended."
        return self._over

    def kill(self) -> None:
        """Cancel the job and remove its files; a worker that still runs ends when it misses them."""
        _cancel(self._number)
        shutil.rmtree(self._run, ignore_errors=True)


def _check_owner(folder: Path) -> None:
    """Raise ConfigError for a folder in which somebody else could put requests, replies or links."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigError(
            f"Somebody else can write in the folder {SHARED!r} of the site.",
            remedy="Find out who made it, and remove it; it is made again.",
        )


def _cancel(number: str) -> None:
    if NUMBER.fullmatch(number):
        with contextlib.suppress(NotStarted):
            _call(["scancel", number], quiet=True)


def _call(command: Sequence[str], *, quiet: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run one of Slurm's commands; raises NotStarted if it cannot be run, or with `quiet` returns an exit code."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=COMMAND_S, stdin=subprocess.DEVNULL,
            check=False, env=without_proxies(os.environ),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as problem:
        if quiet:
            return subprocess.CompletedProcess(command, 1, "", type(problem).__name__)
        raise NotStarted(f"{command[0]} cannot be run ({type(problem).__name__}).") from None
