"""The two workers of the node: one predicts on studies that are whole, the other sends what was predicted."""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.sources.settings import SourceOptions
from salus.client.outgoing.sending import objects_of
from salus.client.predicting.answering import Locating, Numbering
from salus.client.predicting.from_sums import SumsModelFile
from salus.client.predicting.inputs import from_folder
from salus.client.predicting.model import FinishedModel
from salus.client.predicting.objects import CAPTURES, REPORTS, SEGMENTATIONS
from salus.client.predicting.run import NothingPredicted, Wanted, check_wanted
from salus.client.predicting.run import predict as predicted
from salus.client.serving.spool import Spool
from salus.client.serving.studies import (
    FAILED,
    MOST_BEGUN,
    PREDICTED,
    PREDICTING,
    RECEIVED,
    SENDING,
    SENT,
    Studies,
    Study,
)
from salus.common.columns import columns_of
from salus.common.errors import DataError, JobError, LinkError, SalusError, StorageError, storage_error, where
from salus.common.events import EventSink
from salus.common.job import Job
from salus.common.sums.images import makes_rows
from salus.common.tasks import make_task
from salus.common.tasks.several import several_of

Tell = Callable[[int, int], None]
Send = Callable[[Sequence[Path], Tell], int]


class FilesGone(DataError):
    """Files that were received are not there any more."""


class Halted(Exception):
    """The node stops; the study in work begins again at the next start."""


@dataclass(frozen=True)
class Predicting:
    """A package that was checked, and what it writes.

    Args:
        kinds: of DICOM objects.
        reader: of headers, in a sandbox.
        most_oblique: see `Wanted`.
    """

    job: Job
    model: FinishedModel | SumsModelFile
    kinds: frozenset[str]
    device: torch.device
    decoding: Decoding = field(default_factory=Decoding)
    most_oblique: float = 30.0
    reader: Isolated = field(default_factory=Isolated)

    def __call__(self, files: Path, out: Path, tell: Tell) -> dict[str, int]:
        """Predict on a folder of DICOM files, as `salus predict` does; return what was refused, by reason.

        Raises:
            DataError: nothing could be predicted on, or no DICOM object could be written.
            StorageError: the disk.
        """
        volumes = len(self.job.task.shape) == 3
        inputs = from_folder(files, "dicom", SourceOptions(), self.decoding, volumes=volumes)
        wanted = Wanted(out, self.kinds, self.most_oblique, self.device, once=True)
        finished = predicted(self.job, self.model, inputs, wanted, tell, self.reader)
        refused = Counter(refusal.reason for refusal in finished.refused)
        refused.update(reason for one in finished.outcomes.values() for reason in one.left_out.values())
        if not any(set(one.files) & self.kinds for one in finished.outcomes.values()):
            raise DataError(
                f"No DICOM object could be written ({', '.join(sorted(refused))}).", remedy="Use salus predict."
            )
        return dict(refused)


def kinds_for(job: Job) -> frozenset[str]:
    """Return the kinds of DICOM objects that the predictions of a job can have.

    Raises:
        JobError: none, or one that cannot be told of a single study; see also `check_wanted`.
        ConfigError: highdicom is not installed.
    """
    if columns_of(job.task) and not makes_rows(job):
        raise JobError("A model of rows of a table takes no DICOM studies.", remedy="Use salus predict.")
    kinds = {SEGMENTATIONS, REPORTS, CAPTURES}
    if job.statistics is None:
        task = make_task(job.task)
        if several_of(task) is not None:
            raise JobError(
                f"The task {job.task.kind!r} takes all images of a patient together, of more than one study.",
                remedy="Use salus predict.",
            )
        check_wanted(job, frozenset({CAPTURES}))
        if isinstance(task, Locating):  # DICOM has no object for boxes that viewers show
            kinds = {CAPTURES}
        elif "mask" not in task.spec and not isinstance(task, Numbering):
            kinds.discard(SEGMENTATIONS)
    else:
        kinds.discard(SEGMENTATIONS)
    for kind in sorted(kinds):
        try:
            check_wanted(job, frozenset({kind}))
        except JobError:
            kinds.discard(kind)
    check_wanted(job, frozenset(kinds))
    return frozenset(kinds)


class Worker:
    """Does one study at a time; a study that fails costs only itself.

    Args:
        stopping: whether the node was asked to stop.
    """

    def __init__(self, studies: Studies, spool: Spool, events: EventSink, stopping: Callable[[], bool]) -> None:
        self._studies, self._spool, self._events, self._stopping = studies, spool, events, stopping

    def step(self) -> bool:
        """Do the next study that is due; return whether there was one."""
        raise NotImplementedError

    def _tell(self, done: int, of: int) -> None:
        if self._stopping():
            raise Halted

    def _fail(self, study: Study, reason: str, detail: str) -> None:
        self._studies.change(study.id, state=FAILED, reason=reason, detail=detail)
        self._events.emit("failed", study=study.id, reason=reason)
        self._spool.bound_failed()
        self._studies.prune()

    def _later(self, study: Study, state: str, reason: str, detail: str) -> None:
        self._studies.later(study, state, reason, detail)
        self._events.emit("waiting", study=study.id, reason=reason, tries=study.tries + 1)


class Predictor(Worker):
    """Predicts on studies that are whole."""

    def __init__(
        self,
        studies: Studies,
        spool: Spool,
        events: EventSink,
        stopping: Callable[[], bool],
        predicting: Predicting,
    ) -> None:
        super().__init__(studies, spool, events, stopping)
        self._predicting = predicting

    def step(self) -> bool:
        """Predict on the next study that is due; return whether there was one."""
        study = self._studies.next(RECEIVED, PREDICTING)
        if study is None:
            return False
        if study.begun >= MOST_BEGUN:
            text = f"its prediction was begun {study.begun} times, and the process ended each time"
            self._fail(study, "process-ended", text)
            return True
        model = self._predicting.model.sha256
        self._studies.change(study.id, state=PREDICTING, begun=study.begun + 1, model_sha256=model)
        try:
            self._predict(study, model)
        except Halted:
            self._studies.change(study.id, state=RECEIVED, begun=study.begun)
        except (StorageError, OSError) as problem:
            known = storage_error(problem) if isinstance(problem, OSError) else problem
            self._later(
                study, RECEIVED, "disk", str(known) if known else f"{type(problem).__name__} at {where(problem)}"
            )
            self._studies.change(study.id, begun=study.begun)
        except NothingPredicted as problem:
            self._fail(study, ", ".join(problem.reasons) or "no-image", problem.problem)
        except SalusError as problem:
            reason = "files-gone" if isinstance(problem, FilesGone) else "not-predicted"
            self._fail(study, reason, problem.problem)
        except (
            Exception
        ) as problem:  # what is wrong with one study, or with us for this study, must not stop the others
            self._fail(study, f"unexpected-{type(problem).__name__}", where(problem))
        return True

    def _predict(self, study: Study, model: str) -> None:
        if self._spool.count(study) < study.instances:  # removed by hand, or the table was restored from a copy
            raise FilesGone("Files of the study are no longer here.", remedy="Send it again from the PACS.")
        digest = self._spool.files_sha256(study)
        if self._studies.repeated(study, model, digest) is not None:
            self._studies.change(study.id, state=SENT, files_sha256=digest, files=False, reason="repeated")
            self._spool.remove(study)
            self._events.emit("repeated", study=study.id)
            return
        out = self._spool.results(study, model)
        shutil.rmtree(out, ignore_errors=True)  # what a killed process left of an earlier attempt
        refused = self._predicting(self._spool.received(study), out, self._tell)
        count = len(objects_of(out))
        done = {"files_sha256": digest, "objects": count, "refused": refused, "tries": 0, "due_at": self._studies.due()}
        self._studies.change(study.id, state=PREDICTED, reason="", detail="", **done)
        self._events.emit("predicted", study=study.id, objects=count, refused=dict(refused))


class Sender(Worker):
    """Sends what was predicted; while the PACS is away, a study waits and is tried again.

    Args:
        send: stores files in the PACS, see `sending.store`.
        keep: why received files are kept when a study was sent; empty to delete them.
    """

    def __init__(
        self,
        studies: Studies,
        spool: Spool,
        events: EventSink,
        stopping: Callable[[], bool],
        send: Send,
        keep: str = "",
    ) -> None:
        super().__init__(studies, spool, events, stopping)
        self._send, self._keep = send, keep

    def step(self) -> bool:
        """Send the results of the next study that is due; return whether there was one."""
        study = self._studies.next(PREDICTED, SENDING)
        if study is None:
            return False
        self._studies.change(study.id, state=SENDING)
        try:
            count = self._send(objects_of(self._spool.results(study, study.model_sha256)), self._tell)
        except Halted:
            return True  # what was sent is sent again at the next start, and is one object to the PACS
        except LinkError as problem:
            self._later(study, SENDING, "pacs", problem.problem)
        except (StorageError, OSError) as problem:
            self._later(study, SENDING, "disk", str(problem) if isinstance(problem, StorageError) else where(problem))
        except DataError as problem:  # the results are damaged or gone; what they came from is still here
            self._later(study, RECEIVED, "damaged-results", problem.problem)
        except Exception as problem:
            self._later(study, SENDING, f"unexpected-{type(problem).__name__}", where(problem))
        else:
            self._studies.change(study.id, state=SENT, files=False, reason="", detail="", kept=self._keep)
            self._events.emit("sent", study=study.id, objects=count)
            self._spool.remove(study, keep=bool(self._keep))
            self._studies.prune()
        return True
