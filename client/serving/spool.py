"""Where received files wait: a file is on disk, under its final name, before its sender hears of success.

    spool/00000007/<hash of the SOPInstanceUID>.dcm     what arrived
    results/00000007-<model>/                           what was predicted, as `salus predict` writes it
    kept/00000007/                                      files that the operator has kept, with a reason

Names say nothing about a patient.
"""

import contextlib
import hashlib
import itertools
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.incoming.receiver import BUSY, NOT_UNDERSTOOD, SUCCESS
from salus.client.serving.studies import FAILED, RECEIVED, RECEIVING, Studies, Study
from salus.common.clock import Clock
from salus.common.errors import ConfigError, SalusError, StorageError, UnreadableImage
from salus.common.files import sync, write_whole
from salus.common.strict import Strict

SPOOL, RESULTS, KEPT = "spool", "results", "kept"
LONGEST_QUIET_S = 300.0  # after which a study is whole although its sender keeps the connection open for others
GB = 10**9
CHUNK = 2**20
MOST_DIGITS = 12  # of a study's number
LOOKED_AGAIN = 256  # instances after which the table is asked again how full the spool is


class Bounds(Strict):
    """How much a node takes before it refuses with "out of resources" (0xA700); the sender keeps the object then.

    Args:
        studies: that may wait; failed ones have a bound of their own.
        instances: in all that wait.
        floor_gb: that stay free on the disk.
        quiet_s: for which nothing of a study may arrive before it counts as whole.
        failed: studies whose files are kept; of older ones only the reason is.
    """

    studies: Annotated[int, Field(ge=1, le=100_000)] = 200
    instances: Annotated[int, Field(ge=1, le=10_000_000)] = 200_000  # a hundred CTs of two thousand slices
    floor_gb: Annotated[float, Field(ge=0, le=1e6)] = 5.0
    quiet_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    failed: Annotated[int, Field(ge=0, le=100_000)] = 100


@dataclass
class _Arriving:
    """A study of which objects still arrive."""

    number: int
    last_s: float
    instances: int = 0
    connections: set[int] = field(default_factory=set)


class Spool:
    """Takes objects, and says when a study is whole.

    Args:
        child: reads headers in a sandbox; nothing of an object is parsed here.
    """

    def __init__(self, folder: Path, studies: Studies, bounds: Bounds, child: Isolated, clock: Clock) -> None:
        self.folder, self._studies, self._bounds = folder, studies, bounds
        self._child, self._clock = child, clock
        self._lock = threading.Lock()
        self._arriving: dict[str, _Arriving] = {}
        self._held, self._since_held = studies.held(), 0
        for name in (SPOOL, RESULTS):
            if (folder / name).is_symlink():
                raise ConfigError(f"{name!r} in the node's folder is a link.", remedy="Move the folder itself instead.")
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        # A table that was lost or restored from a copy must not give a number, and with it files, to another study.
        studies.number_after(max(self._numbers(), default=0))
        self._recover()

    def received(self, study: Study) -> Path:
        """Return the folder of a study's files."""
        return self.folder / SPOOL / f"{study.id:08d}"

    def results(self, study: Study, model_sha256: str) -> Path:
        """Return the folder of what a model predicted on a study."""
        return self.folder / RESULTS / f"{study.id:08d}-{model_sha256[:16]}"

    def take(self, name: str, data: bytes, connection: int) -> int:
        """Keep an object that has arrived and return the status of its C-STORE.

        Args:
            name: SOPInstanceUID of the request.
            connection: by which it came.

        Guarantees: after success it is on disk, or is nothing that a prediction is made of.
        """
        try:
            found = self._child.identify(data)
        except UnreadableImage as problem:
            return self._refused(problem.reason)
        except SalusError:  # no process to read it with
            return self._refused("no-reader", BUSY)
        if found.instance_uid != name:
            return self._refused("other-identifier")
        if found.own or not found.image:
            return self._counted("own-result" if found.own else "no-image", SUCCESS)
        with self._lock:
            try:
                reason = self._full(found.study_uid, len(data))
                if not reason:
                    self._keep(found.study_uid, name, data, connection)
            except (StorageError, OSError):
                reason = "disk"
        return self._refused(reason, BUSY) if reason else SUCCESS

    def settle(self, connected: set[int]) -> int:
        """Close the studies that are whole and return how many are still arriving.

        Args:
            connected: connections that are open; while one that has sent of a study is, the study is whole only after
                `LONGEST_QUIET_S`.
        """
        now = self._clock.monotonic_s()
        with self._lock:
            for uid, study in list(self._arriving.items()):
                quiet_s = now - study.last_s
                ended = not study.connections & connected or quiet_s >= LONGEST_QUIET_S
                if ended and quiet_s >= self._bounds.quiet_s:
                    self._close(uid, study)
            return len(self._arriving)

    def settle_all(self) -> None:
        """Close every study, where nothing is received any more."""
        with self._lock:
            for uid, study in list(self._arriving.items()):
                self._close(uid, study)

    def remove(self, study: Study, *, keep: bool = False) -> None:
        """Remove a finished study's files, after its row says that they are not needed.

        Args:
            keep: move what was received out of the spool instead.
        """
        if keep and self.received(study).exists():
            (self.folder / KEPT).mkdir(mode=0o700, exist_ok=True)
            self.received(study).replace(_unused(self.folder / KEPT / self.received(study).name))
        remove_files(self.folder, study)

    def tidy(self) -> None:
        """Remove what an earlier process had no time to remove after it was done with it."""
        for number in sorted(self._numbers()):
            with contextlib.suppress(ConfigError):  # its row was pruned, or it is somebody else's: not ours to remove
                study = self._studies.get(number)
                if not study.files:
                    self.remove(study, keep=bool(study.kept))

    def _numbers(self) -> set[int]:
        """Return the numbers of the studies whose files are here, with or without a row."""
        places = [self.folder / name for name in (SPOOL, RESULTS) if (self.folder / name).is_dir()]
        names = {path.name.split("-")[0] for place in places for path in place.iterdir()}
        return {int(name) for name in names if name.isascii() and name.isdigit() and len(name) <= MOST_DIGITS}

    def count(self, study: Study) -> int:
        """Return how many files of a study are here."""
        return sum(1 for _ in self.received(study).glob("*.dcm"))

    def files_sha256(self, study: Study) -> str:
        """Return a hash of a study's files and their names."""
        whole = hashlib.sha256()
        for path in sorted(self.received(study).iterdir()):
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while part := file.read(CHUNK):
                    digest.update(part)
            whole.update(path.name.encode() + digest.digest())
        return whole.hexdigest()

    def bound_failed(self) -> None:
        """Remove the files of the oldest failed studies beyond their number; the reasons stay."""
        failed = [study for study in self._studies.listed(FAILED, most=1_000_000) if study.files]
        for study in failed[self._bounds.failed :]:
            self._studies.change(study.id, FAILED, files=False)
            self.remove(study)

    def _full(self, study_uid: str, size: int) -> str:
        """Return which bound an object would break; empty if none."""
        if shutil.disk_usage(self.folder).free - size < self._bounds.floor_gb * GB:
            return "disk-floor"
        self._since_held += 1
        new = study_uid not in self._arriving
        if new or self._since_held >= LOOKED_AGAIN or self._instances >= self._bounds.instances:
            self._held, self._since_held = self._studies.held(), 0
        if self._instances >= self._bounds.instances:
            return "too-many-instances"
        if new and self._held[0] + len(self._arriving) >= self._bounds.studies:
            return "too-many-studies"
        return ""

    @property
    def _instances(self) -> int:
        return self._held[1] + sum(study.instances for study in self._arriving.values())

    def _keep(self, study_uid: str, name: str, data: bytes, connection: int) -> None:
        study = self._arriving.get(study_uid)
        if study is None:
            study = _Arriving(self._studies.open(study_uid), self._clock.monotonic_s())
            self._arriving[study_uid] = study
        folder = self.folder / SPOOL / f"{study.number:08d}"
        if not folder.exists():
            folder.mkdir(mode=0o700)
            sync(folder.parent)
        path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:40]}.dcm"
        study.connections.add(connection)
        new = not path.exists()
        write_whole(path, data)
        study.instances += new
        study.last_s = self._clock.monotonic_s()

    def _close(self, uid: str, study: _Arriving) -> None:
        if study.instances:
            self._studies.change(study.number, state=RECEIVED, instances=study.instances)
        else:  # its first object could not be written
            self._studies.change(study.number, state=FAILED, reason="empty", files=False)
        del self._arriving[uid]

    def _refused(self, reason: str, status: int = NOT_UNDERSTOOD) -> int:
        return self._counted(f"refused: {reason}", status)

    def _counted(self, what: str, status: int) -> int:
        with contextlib.suppress(StorageError):  # a full disk must not hide the answer
            self._studies.count(what)
        return status

    def _recover(self) -> None:
        """Take up what an earlier process left: studies that were arriving, and half-written files, whose senders know."""
        now = self._clock.monotonic_s()
        for part in (self.folder / SPOOL).glob("*/*.part"):
            part.unlink(missing_ok=True)
        for study in reversed(self._studies.listed(RECEIVING, most=1_000_000)):
            count = self.count(study)
            if study.study_uid in self._arriving:  # never, because one process receives; the rows are kept apart
                self._studies.change(study.id, state=RECEIVED, instances=count)
                continue
            self._arriving[study.study_uid] = _Arriving(study.id, now, count)


def _unused(path: Path) -> Path:
    """Return a path beside which nothing has the same name."""
    names = (path if not number else path.with_name(f"{path.name}-{number}") for number in itertools.count())
    return next(name for name in names if not name.exists())


def remove_files(folder: Path, study: Study) -> None:
    """Remove all files of a study in a node's folder."""
    for path in (folder / SPOOL / f"{study.id:08d}", *(folder / RESULTS).glob(f"{study.id:08d}-*")):
        shutil.rmtree(path, ignore_errors=True)
