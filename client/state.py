"""What a site keeps between the rounds of a job, such as the control variate of SCAFFOLD: on disk before its update leaves.

One file for each of the last two rounds: a round that is repeated begins from what was kept before it, and the next round
from what was kept in it, whichever the coordinator asks for after a crash on either side. It comes from the site's own data
and never leaves the site.
"""

import os
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from salus.common.files import write_whole
from salus.common.strategies.base import State

MOST_JOBS = 8  # whose states are kept; a site is not told when a job ends
FILE = re.compile(r"round-(\d{7})\.safetensors")


class JobStates:
    """The states of a site's jobs.

    Args:
        folder: where they are kept, readable by the site's user only; None keeps them in memory, for tests.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[tuple[str, int], State] = {}

    def load(self, job: str, round_: int) -> State:
        """Return what was kept in the latest round before this one; empty if nothing was, or if the file is damaged.

        Args:
            job: names the job and its contents; made of letters, digits and hyphens.
        """
        earlier = [number for number in self._rounds(job) if number < round_]
        if not earlier:
            return {}
        if self._folder is None:
            return self._memory[job, max(earlier)]
        try:
            return {name: np.asarray(array) for name, array in load(self._file(job, max(earlier)).read_bytes()).items()}
        except (OSError, SafetensorError, ValueError):
            return {}

    def keep(self, job: str, round_: int, state: State) -> None:
        """Store the state after a round; on disk when this returns. Older rounds and the oldest jobs are removed.

        Raises:
            StorageError: the disk is full, or the folder cannot be written to.
        """
        if self._folder is None:
            self._memory[job, round_] = dict(state)
        else:
            place = self._folder / job
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(self._file(job, round_), save({name: np.ascontiguousarray(a) for name, a in state.items()}))
            _sync(place)
            self._drop_old_jobs(job)
        for old in (number for number in self._rounds(job) if number < round_ - 1):
            self._drop(job, old)

    def forget(self, job: str) -> None:
        """Remove everything that is kept for a job."""
        for number in self._rounds(job):
            self._drop(job, number)
        if self._folder is not None and (self._folder / job).is_dir():
            (self._folder / job).rmdir()

    def _rounds(self, job: str) -> list[int]:
        if self._folder is None:
            return [number for name, number in self._memory if name == job]
        found = (FILE.fullmatch(path.name) for path in (self._folder / job).glob("round-*.safetensors"))
        return [int(match[1]) for match in found if match is not None]

    def _file(self, job: str, round_: int) -> Path:
        assert self._folder is not None  # Safe because only states on disk have files.
        return self._folder / job / f"round-{round_:07d}.safetensors"

    def _drop(self, job: str, round_: int) -> None:
        if self._folder is None:
            del self._memory[job, round_]
        else:
            self._file(job, round_).unlink(missing_ok=True)

    def _drop_old_jobs(self, current: str) -> None:
        assert self._folder is not None  # Safe because it is called for states on disk only.
        others = [place for place in self._folder.iterdir() if place.is_dir() and place.name != current]
        for place in sorted(others, key=lambda path: path.stat().st_mtime_ns)[: max(0, len(others) - MOST_JOBS + 1)]:
            for file in place.iterdir():
                file.unlink(missing_ok=True)
            place.rmdir()


def _sync(folder: Path) -> None:
    """Sync a folder, so that a new name in it survives a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
