"""A whole run: every image of a folder or a data set, one after the other; one that is refused costs only itself."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from salus import __version__
from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.instances import Instance
from salus.client.data.records import Sample
from salus.client.outgoing.coding import coded
from salus.client.outgoing.highdicom_extra import require_highdicom
from salus.client.outgoing.producer import Producer
from salus.client.predicting.answering import Answering, Numbering
from salus.client.predicting.from_sums import SumsAnswering, SumsModelFile, scored_of
from salus.client.predicting.inputs import (
    DICOM,
    Input,
    Inputs,
    Refusal,
    check_facts,
    check_oblique,
    explained,
    instances_of,
)
from salus.client.predicting.model import FinishedModel
from salus.client.predicting.objects import CAPTURES, REPORTS, SEGMENTATIONS
from salus.client.predicting.outputs import Writer
from salus.client.predicting.record import Outcome, Record, Run
from salus.client.predicting.units import Unit, units_of
from salus.common.errors import DataError, JobError, UnreadableImage
from salus.common.job import Job
from salus.common.tasks import make_task
from salus.common.tasks.base import Task
from salus.common.tasks.generation import Generating
from salus.common.tasks.several import several_of
from salus.common.transforms import kind_of
from salus.common.vocabulary import OTHER

CPU = torch.device("cpu")
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Wanted:
    """What a run is to write.

    Args:
        out: folder of the results.
        kinds: of files, see `outputs`.
        most_oblique: degrees by which a volume's axes may be turned against the patient's.
        once: whether a repeated prediction makes the same DICOM objects although its numbers may differ in a last digit.
    """

    out: Path
    kinds: frozenset[str]
    most_oblique: float = 30.0
    device: torch.device = CPU
    once: bool = False


@dataclass(frozen=True)
class Finished:
    """What came of a run, in the order of the data.

    Args:
        continued: how many results an earlier, stopped run had left.
    """

    outcomes: dict[str, Outcome]
    refused: tuple[Refusal, ...]
    continued: int


class NothingPredicted(DataError):
    """Every image was refused, or there was none.

    Attributes:
        reasons: in alphabetical order.
    """

    def __init__(self, refused: Sequence[Refusal]) -> None:
        self.reasons = sorted({refusal.reason for refusal in refused})
        first = f" {refused[0].detail[:1].upper()}{refused[0].detail[1:]}." if refused else ""
        super().__init__(
            f"No image could be predicted on ({', '.join(self.reasons) or 'no image found'}).{first}",
            remedy=refused[0].remedy if refused else "Check the path and --kind.",
        )


def check_wanted(job: Job, kinds: frozenset[str]) -> None:
    """Refuse what cannot be written, before anything is read.

    Raises:
        JobError: a job with a transform that needs a site's other patients, or whose model generates images.
        ConfigError: highdicom is not installed.
    """
    if job.statistics is not None:
        scored_of(job)
    else:
        _check_task(make_task(job.task), kinds)
    fitted = [step.kind for step in job.task.transforms if kind_of(step).fitted]
    if fitted:
        raise JobError(
            f"The transform {fitted[0]!r} changes an image by the other images of its site, so one image alone cannot be "
            "predicted on.",
            remedy='Train with "nyul" or "zscore".',
        )
    if kinds & {SEGMENTATIONS, REPORTS, CAPTURES}:
        require_highdicom()


def _check_task(task: Task, kinds: frozenset[str]) -> None:
    kind = task.settings.kind
    if isinstance(task, Generating):
        raise JobError(
            f"A model of the task {kind!r} generates images and says nothing about a given one.",
            remedy="Use: salus generate MODEL",
        )
    if REPORTS in kinds and several_of(task) is not None:
        raise JobError(
            f"A DICOM report is of one study, but the task {kind!r} takes all images of a patient together.",
            remedy="Leave out --sr; the table and the page are written without it.",
        )
    if REPORTS in kinds and isinstance(task, Numbering):
        raise JobError(
            f"DICOM reports of single objects, which the task {kind!r} finds, are not written.",
            remedy="Leave out --sr; masks, boxes and counts are written without it.",
        )


def predict(
    job: Job,
    model: FinishedModel | SumsModelFile,
    inputs: Inputs,
    wanted: Wanted,
    tell: Tell = lambda done, of: None,
    reader: Isolated | None = None,
) -> Finished:
    """Predict on every input and write its files; a run that was stopped goes on where it stopped.

    Args:
        tell: called with the number of finished images and the total.
        reader: of headers, which the caller has started; one is started for this run if there is none.

    Raises:
        ConfigError: a folder that holds something else, or DICOM output without highdicom.
        DataError: nothing could be predicted on.
    """
    check_wanted(job, wanted.kinds)
    run = Run(
        model_sha256=model.sha256,
        job_sha256=job.digest().hex(),
        data_sha256=hashlib.sha256(inputs.identity.encode()).hexdigest(),
        outputs=tuple(sorted(wanted.kinds)),
    )
    producer = Producer(job.job.name, model.sha256, __version__)
    with ExitStack() as stack:
        record = stack.enter_context(Record(wanted.out, run))
        child = reader
        if child is None and inputs.kind in DICOM:
            child = stack.enter_context(Isolated(layers=inputs.layers))
        refused = list(inputs.refused if child is None else explained(inputs, child))
        units = units_of(inputs.found, None if job.statistics else several_of(make_task(job.task)))
        continued = sum(one.key in record.done for one in units)
        writer = Writer(record, wanted.kinds, coded(job.task.classes, job.task.codes), producer, wanted.once)
        one_run = _OneRun(job, model, inputs, wanted, writer, child, refused)
        for number, one in enumerate(units):
            tell(number, len(units))
            if one.key in record.done:
                continue
            with _noted(one.item, refused):
                record.finish(one.key, one_run(one))
        tell(len(units), len(units))
        outcomes = {one.key: record.done[one.key] for one in units if one.key in record.done}
    if not outcomes:
        raise NothingPredicted(refused)
    return Finished(outcomes, tuple(refused), continued)


@contextmanager
def _noted(item: str, refused: list[Refusal]) -> Iterator[None]:
    """Note an image that cannot be used as refused, and go on."""
    try:
        yield
    except UnreadableImage as problem:
        refused.append(Refusal(item, problem.reason, problem.detail))
    except DataError as problem:
        refused.append(Refusal(item, "does-not-fit-job", problem.problem))


class _OneRun:
    """Everything that stays the same from image to image."""

    def __init__(
        self,
        job: Job,
        model: FinishedModel | SumsModelFile,
        inputs: Inputs,
        wanted: Wanted,
        writer: Writer,
        child: Isolated | None,
        refused: list[Refusal],
    ) -> None:
        self._job, self._inputs, self._wanted, self._writer, self._child = job, inputs, wanted, writer, child
        self._refused, self._together = refused, False
        self._answering: SumsAnswering | Answering
        if isinstance(model, SumsModelFile):
            self._answering = SumsAnswering(job, model)
        else:
            task = make_task(job.task)
            self._answering = Answering(task, model.network, wanted.device)
            self._together = several_of(task) is not None

    def __call__(self, unit: Unit) -> Outcome:
        if self._together:
            return self._patient(unit)
        (one,) = unit.images
        sample, vendor, instances = self._read(one)
        return self._writer.write(unit.item, sample, self._answering(sample, vendor), instances)

    def _patient(self, unit: Unit) -> Outcome:
        """Predict on all images of a patient together; one that cannot be used costs only itself."""
        assert isinstance(self._answering, Answering)  # Safe because models from sums take single images.
        images, sample = [], None
        for one in unit.images:
            with _noted(one.item, self._refused):
                sample, vendor, _ = self._read(one)
                images.append(self._answering.prepared(sample, vendor))
        if sample is None or not images:
            raise UnreadableImage("no-image", "none of the patient's images could be used")
        return self._writer.write(unit.item, sample, self._answering.together(images), [])

    def _read(self, one: Input) -> tuple[Sample, str, list[Instance]]:
        check_facts(one, self._inputs.kind, self._job.task)
        instances: list[Instance] = []
        if self._child is not None:
            instances = instances_of(self._inputs, one, self._child, self._job.task)
        sample: Sample = self._inputs.source.load(one.key)
        if sample.affine is not None and sample.values.ndim == 4:
            check_oblique(sample.affine, self._wanted.most_oblique)
        return sample, str(one.info.get("vendor", OTHER)), instances
