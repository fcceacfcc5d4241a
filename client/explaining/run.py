"""A whole run: the inputs are compared once, a few cases are chosen, and each is explained by every method."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from salus.client.explaining.asking import Asked, Asking, NetworkAsking
from salus.client.explaining.asking_sums import SumsAsking
from salus.client.explaining.cases import CaseResult, MapResult, kept, view_of
from salus.client.explaining.nearest import Compared, chosen, counterexamples
from salus.client.explaining.pictures import peak_of, strongest
from salus.client.explaining.reading import Known, Reading, reading, region_of, truth_of
from salus.client.explaining.sanity import curves, hit, similarity, smoothed
from salus.client.explaining.scores import check_task
from salus.client.explaining.subject import Bools, FloatArray, Method, Subject, per_column
from salus.client.predicting.from_sums import SumsModelFile, scored_of
from salus.client.predicting.inputs import Input, Refusal
from salus.client.predicting.model import FinishedModel
from salus.client.predicting.run import CPU, check_wanted
from salus.common.errors import DataError, SalusError, UnreadableImage
from salus.common.job import Job
from salus.common.tasks import make_task

NETWORKS = 3  # with random weights, for each case
APART = 1_000_003  # between the seeds of one case; more than there are cases
KEPT = 2**24  # numbers of other inputs that are kept for the methods that need some: 64 MB
MOST_ROWS, MOST_IMAGES = 500, 16
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Wanted:
    """What a run is to do.

    Args:
        cases: how many inputs are explained.
        compared: how many inputs are read at most.
        methods: by name.
    """

    cases: int
    compared: int
    methods: Mapping[str, Method]
    device: torch.device = CPU


@dataclass(frozen=True)
class Finished:
    """What came of a run.

    Args:
        inputs: found in the data, and how many of them were compared.
        unfit: by method, why it was not applied to any case.
        problem: why a label file was not used; empty if it was, or if there is none.
    """

    cases: tuple[CaseResult, ...]
    found: int
    compared: int
    refused: tuple[Refusal, ...]
    unfit: dict[str, str] = field(default_factory=dict)
    problem: str = ""


def check_job(job: Job) -> None:
    """Refuse a model that cannot be explained, before anything is read; raises JobError."""
    check_wanted(job, frozenset())
    if job.statistics is not None:
        scored_of(job)
    else:
        check_task(make_task(job.task))


def explain(
    job: Job,
    model: FinishedModel | SumsModelFile,
    known: Known,
    wanted: Wanted,
    tell: Tell = lambda what, done, of: None,
) -> Finished:
    """Explain a few of the inputs.

    Args:
        tell: called with what is being done, how much of it is done, and the total.

    Raises:
        JobError: a model that cannot be explained.
        DataError: no input can be used.
    """
    check_job(job)
    asking: Asking = (
        SumsAsking(job, model) if isinstance(model, SumsModelFile) else NetworkAsking(job, model, wanted.device)
    )
    with reading(known.inputs, job.task) as read:
        run = _Run(job, asking, known, wanted, read)
        every, others = run.compared(lambda done, of: tell("Comparing ...", done, of))
        places = chosen(every, wanted.cases)
        cases = []
        for number, place in enumerate(places):
            tell("Explaining ...", number, len(places))
            cases.append(run.explained(number, place, every, others))
        tell("Explaining ...", len(places), len(places))
    used = {name for case in cases for name in case.maps}
    unfit = {name: reason for case in cases for name, reason in case.unfit.items() if name not in used}
    refused = (*known.inputs.refused, *run.refused)
    return Finished(tuple(cases), len(known.inputs.found), len(every), refused, unfit, known.problem)


class _Run:
    def __init__(self, job: Job, asking: Asking, known: Known, wanted: Wanted, read: Reading) -> None:
        self._job, self._asking, self._known, self._wanted, self._read = job, asking, known, wanted, read
        self.refused: list[Refusal] = []

    def compared(self, tell: Callable[[int, int], None]) -> tuple[list[Compared], torch.Tensor]:
        """Return every input that is compared, and some of them as the model gets them."""
        found = self._known.inputs.found
        # At even distances through the data, which may be sorted by class.
        steps = np.linspace(0, len(found) - 1, min(len(found), self._wanted.compared))
        picked = [found[int(place)] for place in np.unique(steps.round())] if len(found) else []
        every: list[Compared] = []
        kept: list[torch.Tensor] = []
        for number, one in enumerate(picked):
            tell(number, len(picked))
            asked = self._asked(one)
            if asked is None:
                continue
            every.append(asked)
            if self._last is not None:
                kept = self._with(kept, self._last.inputs.detach().cpu(), number, len(picked))
        tell(len(picked), len(picked))
        if not every:
            first = self.refused[0] if self.refused else next(iter(self._known.inputs.refused), None)
            reason = "no image found" if first is None else f"{first.reason}: {first.detail}"
            raise DataError(
                f"No image could be explained ({reason}).",
                remedy="Check the path and --kind." if first is None else first.remedy,
            )
        return every, torch.cat(kept)

    def _asked(self, one: Input) -> Compared | None:
        """Return what is kept of an input; None for one that cannot be used, which is noted."""
        self._last: Asked | None = None
        try:
            sample, vendor = self._read(one)
            asked = self._asking(sample, vendor)
        except UnreadableImage as problem:
            self.refused.append(Refusal(one.item, problem.reason, problem.detail))
            return None
        except DataError as problem:
            self.refused.append(Refusal(one.item, "does-not-fit-job", problem.problem))
            return None
        self._last = asked
        question = asked.question
        truth = truth_of(self._known.labels.get(one.key, ""), self._job.task) if question.answer else ""
        return Compared(
            one, question.answer, truth if self._speaks_of_labels else "", question.said, asked.features,
            question.number, question.probability,
        )  # fmt: skip

    @property
    def _speaks_of_labels(self) -> bool:
        return self._job.statistics is not None or self._job.task.kind not in ("segmentation", "detection")

    def _with(self, kept: list[torch.Tensor], inputs: torch.Tensor, number: int, of: int) -> list[torch.Tensor]:
        """Return the inputs that are kept, with one more if its turn has come and there is room."""
        most = MOST_ROWS if self._asking.columns else min(MOST_IMAGES, max(1, KEPT // inputs.numel()))
        every = max(1, -(-of // most))
        return [*kept, inputs] if not kept or (number % every == 0 and len(kept) < most) else kept

    def explained(self, number: int, place: int, every: Sequence[Compared], others: torch.Tensor) -> CaseResult:
        """Return one case by every method."""
        own = every[place]
        sample, vendor = self._read(own.one)
        asked = self._asking(sample, vendor)
        subject = self._asking.subject(asked, others, seed=number)
        structure = self._job.task.classes[asked.question.place] if self._job.task.classes else ""
        region = None if self._asking.columns else region_of(sample, self._job.task, structure)
        maps: dict[str, MapResult] = {}
        unfit: dict[str, str] = {}
        for name, method in self._wanted.methods.items():
            reason = method.unfit(subject)
            if reason:
                unfit[name] = reason
                continue
            try:
                maps[name] = self._map(method, subject, asked, region, own)
            except (SalusError, RuntimeError, ValueError, ArithmeticError, LookupError, TypeError) as problem:
                # One method that a network does not bear must not cost the others.
                unfit[name] = f"it failed on this network ({type(problem).__name__})"
        counters = counterexamples(place, every)
        samples = [] if self._asking.columns else [self._read(one.other.one)[0] for one in counters]
        pictures = [view for other in samples if (view := view_of(other, None)) is not None]
        view = None if self._asking.columns else view_of(sample, region, maps)
        return CaseResult(
            own,
            asked.question.what,
            asked.values,
            None if region is None else float(region.mean()),
            view,
            {name: kept(one, view) for name, one in maps.items()},
            unfit,
            counters,
            tuple(pictures),
        )

    def _map(self, method: Method, subject: Subject, asked: Asked, region: Bools | None, own: Compared) -> MapResult:
        """Return a method's map of a case with its checks."""
        raw = self._shown(method, subject)
        # The same method once more where nothing but its own draws has changed, and with random weights.
        again = similarity(raw, self._shown(method, subject.seeded(subject.seed + APART)))
        others = [self._asking.randomised(subject.seeded(subject.seed + turn * APART)) for turn in range(NETWORKS)]
        randoms = [self._shown(method, other) for other in others if other is not None]
        found = self._on_image(raw, asked)
        # A map of another class than the true one has no reason to mark the annotated region.
        speaks = not self._speaks_of_labels or own.truth == own.answer
        played = None if region is None or not speaks else hit(found, region)
        hits = [bool(hit(self._on_image(one, asked), region)) for one in randoms] if region is not None else []
        return MapResult(
            found,
            strongest(found),
            peak_of(found),
            curves(subject, raw),
            again,
            float(np.mean([similarity(raw, one) for one in randoms])) if randoms else None,
            played,
            float(np.mean(hits)) if played is not None and hits else None,
        )

    def _shown(self, method: Method, subject: Subject) -> FloatArray:
        found = np.asarray(method(subject).detach().cpu().numpy(), np.float32)
        return per_column(found, subject.groups) if subject.is_row else smoothed(found)

    def _on_image(self, found: FloatArray, asked: Asked) -> FloatArray:
        return found if self._asking.columns else self._asking.on_image(found, asked)
