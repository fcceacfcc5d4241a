"""A node with a tiny package, studies for it, and a PACS that only remembers."""

import contextlib
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from pydicom import dcmread
from pydicom.dataset import FileDataset
from tests.client.data.dicom_files import make
from tests.client.data.incoming.test_dimse import send
from tests.processes import wait_until

from salus.client.data.dicom.decoder_cleaning import Identity
from salus.client.data.incoming.receiver import DimseOptions
from salus.client.predicting.given import given_model
from salus.client.serving.daemon import ServeDaemon, Serving
from salus.client.serving.spool import Bounds, Spool
from salus.client.serving.studies import Studies, Study
from salus.client.serving.working import Predicting, kinds_for
from salus.common.clock import SystemClock
from salus.common.errors import LinkError

CANARY = "CANARY"
OPEN = Bounds(quiet_s=0.0, floor_gb=0.0)


def saved(dataset: FileDataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def study_of(patient: int) -> str:
    """Return the StudyInstanceUID of a patient."""
    return f"1.2.826.0.1.7778.{patient}"


def pictures(patient: int, count: int = 2, **changes: object) -> list[bytes]:
    """Return the files of one study of pictures of 8 x 8 pixels."""
    rng = np.random.default_rng(patient)
    root = study_of(patient)
    same = {
        "PatientID": f"{CANARY}{patient}",
        "PatientName": f"{CANARY}^P{patient}",
        "StudyInstanceUID": root,
        "SeriesInstanceUID": f"{root}.1",
        "StudyDate": "20200101",
        "PixelSpacing": [1.0, 1.0],
    }
    return [
        saved(
            make(
                rng.integers(0, 200, (8, 8)).astype(np.uint16),
                **{**same, "SOPInstanceUID": f"{root}.1.{number}", "InstanceNumber": number + 1, **changes},
            )
        )
        for number in range(count)
    ]


def predicting_of(package: Path) -> Predicting:
    """Return a package, checked, as `salus serve start` does."""
    with given_model(package, None) as given:
        return Predicting(given.job, given.load(), kinds_for(given.job), torch.device("cpu"))


@dataclass
class Pacs:
    """Remembers what it was sent by UID; away if it is told so.

    Args:
        sent: how often each object came.
    """

    objects: dict[str, FileDataset] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    away: bool = False
    before: Callable[[], None] = lambda: None

    def __call__(self, paths: Sequence[Path], tell: Callable[[int, int], None]) -> int:
        self.before()
        for number, path in enumerate(paths):
            tell(number, len(paths))
            if self.away:
                raise LinkError("The PACS cannot be reached.", remedy="Wait.")
            found = dcmread(path)
            self.objects.setdefault(str(found.SOPInstanceUID), found)
            self.sent.append(str(found.SOPInstanceUID))
        return len(paths)


@dataclass
class Running:
    """A node that runs in this process."""

    folder: Path
    daemon: ServeDaemon
    pacs: Pacs

    @property
    def studies(self) -> Studies:
        return Studies(self.folder, SystemClock())

    def push(self, files: list[bytes], **options: object) -> list[int]:
        """Send files as a modality does and return the answers."""
        return send(self.daemon.port, files, **options)  # type: ignore[arg-type]

    def deliveries(self, patient: int) -> list[Study]:
        """Return what came of a patient's study, in order."""
        return [one for one in reversed(self.studies.listed()) if one.study_uid == study_of(patient)]

    def states(self, patient: int) -> list[str]:
        """Return the states of a patient's study, each time that it came."""
        return [study.state for study in self.deliveries(patient)]

    def wait(self, patient: int, *states: str) -> list[Study]:
        """Wait until the deliveries of a patient's study are in these states."""
        wait_until(lambda: self.states(patient) == list(states), f"{states}, now {self.states(patient)}")
        return self.deliveries(patient)


class Reader:
    """Reads what an object is without a sandbox."""

    def identify(self, data: bytes) -> Identity:
        found = dcmread(io.BytesIO(data))
        return Identity(study_uid=found.StudyInstanceUID, instance_uid=found.SOPInstanceUID, image=True, own=False)


def received(folder: Path, *patients: int) -> Studies:
    """Write a node's folder in which studies wait for their predictions."""
    folder.mkdir()
    clock = SystemClock()
    studies = Studies(folder, clock)
    spool = Spool(folder, studies, OPEN, Reader(), clock)  # type: ignore[arg-type]
    for patient in patients:
        for number, data in enumerate(pictures(patient)):
            spool.take(f"{study_of(patient)}.1.{number}", data, 1)
    spool.settle_all()
    return studies


def serving_of(folder: Path, predicting: Predicting, pacs: Pacs, **changes: object) -> Serving:
    listening = DimseOptions(called="MODALITY", listen_port=0)
    return replace(Serving(folder, predicting, pacs, listening, OPEN), **changes)  # type: ignore[arg-type]


@contextlib.contextmanager
def running(serving: Serving) -> Iterator[Running]:
    """Run a node until the end of the block."""
    daemon = ServeDaemon(serving)
    problems: list[BaseException] = []

    def run() -> None:
        try:
            daemon.run()
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: bool(daemon.port or problems), "the node")
        assert not problems, problems
        assert isinstance(serving.send, Pacs)
        yield Running(serving.folder, daemon, serving.send)
    finally:
        daemon.stop()
        thread.join()
    assert daemon.finished
    assert not problems, problems
