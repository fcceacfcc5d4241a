"""Starts kept by their hash, so that a job can be resumed, and so that a site receives one once and not in every round."""

import os
from pathlib import Path

from salus.common.errors import NoStart, StartError
from salus.common.files import write_whole
from salus.common.job import Job
from salus.common.job_start import Start
from salus.common.start.applying import first_network, specs_taken
from salus.common.start.weights import PREFIX, Weights, decode

STARTS = "starts"  # the folder in a member's own
MOST = 4  # starts that a site keeps; an older one is sent again if a job needs it


def _hex(digest: str) -> str:
    return digest.removeprefix(PREFIX)


class CoordinatorStarts:
    """The starts of a coordinator's jobs, by the hashes of package and weights, with all parameters.

    Args:
        folder: where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, start: Start, weights: Weights) -> None:
        """Keep a start; on disk when this returns. Raises StorageError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self._path(start), weights.encode())

    def of(self, job: Job) -> Weights | None:
        """Return the start of a job, checked against the hash that the job names; None for a job without one.

        Raises:
            NoStart: it is not here.
            StartError: it is damaged, or it does not fit the job's model.
        """
        if job.start is None:
            return None
        try:
            data = self._path(job.start).read_bytes()
        except FileNotFoundError:
            raise NoStart(
                f"The coordinator does not have the package {job.start.package} with the weights {job.start.weights}, from "
                "which the job starts.",
                remedy="Submit the job with --start PACKAGE.",
            ) from None
        weights = decode(data, job.start.weights)
        first_network(job, weights)
        return weights

    @staticmethod
    def name_of(start: Start) -> str:
        """Return the name of the file of a start in the folder."""
        return f"{_hex(start.package)}-{_hex(start.weights)}.start"

    def _path(self, start: Start) -> Path:
        return self._folder / self.name_of(start)


class SiteStarts:
    """The starts that a site received, by the hash of the job; of each, the parameters that the job takes.

    Args:
        folder: where they are kept; None keeps them in memory, for tests.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[str, bytes] = {}

    def has(self, job: Job) -> bool:
        """Return whether the start of a job is here and intact."""
        try:
            self.of(job)
        except NoStart:
            return False
        return True

    def put(self, job: Job, data: bytes) -> None:
        """Keep the start of a job after checking it against the hash that the job names; the oldest others are removed.

        Raises:
            StartError: other weights than the job's.
            StorageError: the disk is full.
        """
        assert job.start is not None  # Safe because the caller checks it.
        weights = decode(data, job.start.weights, specs_taken(job))
        first_network(job, weights)
        name = self._name(job)
        if self._folder is None:
            self._memory[name] = data
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self._folder / name, data)
        kept = sorted(self._folder.glob("*.start"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for old in kept[MOST:]:
            old.unlink(missing_ok=True)

    def of(self, job: Job) -> Weights | None:
        """Return the start of a job, checked again; None for a job without one. Raises NoStart if it is not here or damaged."""
        if job.start is None:
            return None
        name = self._name(job)
        try:
            data = self._memory[name] if self._folder is None else (self._folder / name).read_bytes()
            weights = decode(data, job.start.weights, specs_taken(job))
        except (KeyError, OSError, StartError):
            raise NoStart(
                f"The start of the job, {job.start.weights}, has not arrived at this site.",
                remedy="The coordinator sends it before the next attempt.",
            ) from None
        if self._folder is not None:
            os.utime(self._folder / name)
        return weights

    def forget(self, job: Job) -> None:
        """Remove the start of a job, if it is here."""
        self._memory.pop(self._name(job), None)
        if self._folder is not None:
            (self._folder / self._name(job)).unlink(missing_ok=True)

    def _name(self, job: Job) -> str:
        return f"{job.digest().hex()}.start"
