"""Statistics at a site: reads its images patient by patient, and gives its answer in one step, exact or with noise.

exact    sums of images, in which every cell has enough patients; nothing if the whole site has too few
noised   for each patient one row of norm at most one, and noise; a failure leaves that patient out
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from salus.client.account import Account
from salus.client.data.catalogue import Catalogue, CataloguedImage
from salus.client.data.preparing import read_registered
from salus.client.data.records import ImageFacts
from salus.client.data.sources.base import Source
from salus.client.data.troubles import Finding, unreadable
from salus.client.data.withdrawals import withdrawn
from salus.client.measured_rows import Rows, measured_of
from salus.client.scoring import nothing, scored
from salus.client.using import sums_ended
from salus.common.declaration import target_of
from salus.common.errors import DataError, UnreadableImage, describe, no_space, where
from salus.common.events import EventSink
from salus.common.job import Job
from salus.common.outcomes import outcome_of
from salus.common.packets import Request
from salus.common.progress import Reporter
from salus.common.subgroups import groups_of
from salus.common.subgroups.base import Subject
from salus.common.sums.base import Float64Vector, Measured, Sums, cells_of, mean_row, norm_of
from salus.common.sums.exact import to_limbs
from salus.common.sums.scoring import Evaluated
from salus.common.sums.state import state_from_bytes
from salus.privacy.contribution import Contribution, DataKind, Kind, Shape
from salus.privacy.dp.gaussian import noised
from salus.privacy.dp.plan import Plan, sensitivity_l2
from salus.privacy.protection import Protection
from salus.privacy.randomness import Stream
from salus.privacy.shapes import measured_shape, scored_shape

SPLIT = {"train": DataKind.MEASURED, "val": DataKind.VALIDATION}  # of jobs that hold patients out


class Measurer:
    """Reads a job's data set for its statistics.

    Args:
        patients: those whose budget allows the job, or None for a job without noise.
        min_patients: returns the minimum in the site's current policy; the larger of it and the job's applies.
        random: source of cryptographic randomness.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        job: Job,
        sums: Sums,
        patients: frozenset[str] | None,
        min_patients: Callable[[], int],
        random: Callable[[int], bytes],
        reporter: Reporter | None = None,
    ) -> None:
        assert job.statistics is not None  # Safe because only jobs with statistics are measured.
        self._catalogue, self._job, self.sums = catalogue, job, sums
        self._patients, self._random = patients, random
        self._reporter = reporter or Reporter()
        self._min_patients, self._asked = min_patients, job.statistics.min_patients
        self._share = job.statistics.held_out
        self._rows = Rows(job)
        self._gate, self._read = catalogue.withdrawals.gate(), set[str]()  # the patients of the present step
        self.left_out: Counter[str] = Counter()
        self.lost: dict[str, str] = {}

    def used(self) -> dict[str, DataKind]:
        """Return the patients of the data set as it is now, or those of them whose budget was reserved."""
        now = self._catalogue.patients(self._job.task.dataset)
        if self._share:
            splits = self._catalogue.splits(self._job.task.dataset, self._share)
            return {patient: SPLIT[splits[patient]] for patient in now if splits.get(patient) in SPLIT}
        return dict.fromkeys(now if self._patients is None else now & self._patients, DataKind.MEASURED)

    def exact(self, step: int, state: Sequence[float]) -> tuple[int, Float64Vector]:
        """Return the number of patients in this site's numbers, and the numbers, ready for an exact sum."""
        self.left_out.clear()
        self.lost.clear()
        least = max(self._min_patients(), self._asked)
        numbers = self.sums.measure(step, state, self._by_patient(), least)
        self._gate.require(self._read)
        return int(numbers[0]), to_limbs(numbers)

    def noised(self, step: int, state: Sequence[float], plan: Plan) -> Float64Vector:
        """Return the sum of all patients' rows ``[1, images, row] / their largest norm``, with noise in local mode."""
        self.left_out.clear()
        self.lost.clear()
        total = np.zeros(2 + cells_of(self.sums, step))
        for mine in self._by_patient():
            total += self._patient(step, state, mine)
        return self.with_noise(total, plan)

    def _patient(self, step: int, state: Sequence[float], mine: Iterable[Measured]) -> Float64Vector:
        """Return one patient's part, of norm at most one; a failure affects that patient only."""
        nothing = np.zeros(2 + cells_of(self.sums, step))
        try:
            found = mean_row(self.sums, step, state, mine)
        except Exception as problem:
            # If a failure affected more, one patient could switch the whole site off, and everybody could see that.
            self.left_out[type(problem).__name__] += 1
            return nothing
        if found is None:
            return nothing
        row, count = found
        images = min(1.0, count / self._job.privacy.images_per_patient)
        part: Float64Vector = np.concatenate([[1.0, images], row]) / norm_of(self.sums, step)
        return part

    def with_noise(self, total: Float64Vector, plan: Plan) -> Float64Vector:
        """Return the sum with this site's noise; in distributed mode the protection adds its share."""
        if plan.mode == "distributed":
            return total
        sigma = plan.noise_multiplier * sensitivity_l2(self._job, "measure")
        result: Float64Vector = noised(torch.from_numpy(total), sigma, Stream(self._random)).numpy()
        return result

    def evaluated(self, blob: bytes, site: int) -> tuple[int, Float64Vector]:
        """Return the number of held-out patients on whom the finished model was evaluated, and their numbers, see `scored`."""
        assert isinstance(self.sums, Evaluated)  # Safe because `sums_of` refuses to hold out patients for other kinds.
        self.left_out.clear()
        self.lost.clear()
        groups = groups_of(self._job)
        least = max(self._min_patients(), self._asked, self._job.evaluation.min_patients)
        patients = (
            ((image, groups.of(Subject(info, site))) for image, info in mine) for mine in self._images(held_out=True)
        )
        count, found = scored(self._job, self.sums, groups, blob, patients, least)
        self._gate.require(self._read)
        return count, found.entries(self._job, least, sum(self.left_out.values()))

    def _by_patient(self) -> Iterator[Iterator[Measured]]:
        """Yield the readable images patient by patient; in a private job at most as many per patient as it allows."""
        for mine in self._images(held_out=False):
            yield (image for image, _ in mine)

    def _images(self, *, held_out: bool) -> Iterator[Iterator[tuple[Measured, dict[str, Any]]]]:
        """Yield the readable images, each with its facts, of the patients in the sums or of those held out of them."""
        dataset, share = self._job.task.dataset, self._share
        self._catalogue.approvals.require(dataset)
        source = self._catalogue.source(dataset)
        rows = zip(self._catalogue.images(dataset), self._catalogue.facts(dataset), strict=True)
        ordered = sorted(rows, key=lambda row: row[0].patient)
        self._read.clear()
        splits = self._catalogue.splits(dataset, share) if share else {}
        seen = 0
        for patient, group in itertools.groupby(ordered, key=lambda row: row[0].patient):
            mine = list(group)
            self._reporter.at("measuring", seen / len(ordered))
            seen += len(mine)
            if share and splits.get(patient) != ("val" if held_out else "train"):
                continue
            if patient in self._gate.gone():  # since this step began
                if self._patients is None:
                    raise withdrawn()  # the other patients' rows cannot be told from those of a step without a withdrawal
                continue
            if self._patients is not None:
                if patient not in self._patients:
                    continue
                mine = mine[: self._job.privacy.images_per_patient]
            self._read.add(patient)
            read = ((self._measured(source, image, facts), facts.info) for image, facts in mine)
            yield ((image, info) for image, info in read if image is not None)  # one image in memory at a time

    def _measured(self, source: Source, image: CataloguedImage, facts: ImageFacts) -> Measured | None:
        try:
            sample = read_registered(source, image)
        except UnreadableImage as problem:
            self.left_out[problem.reason] += 1
            self.lost[image.key] = problem.reason
            return None
        label = target_of(image.label, self._job.task.classes)
        try:
            return measured_of(sample, label, facts.info, self._rows, outcome_of(image.label))
        except UnreadableImage as problem:
            self.left_out[problem.reason] += 1
        except DataError:
            self.left_out["does-not-fit-job"] += 1
        except Exception as problem:
            # The failure of a step on one image must not exclude all others.
            self.left_out[type(problem).__name__] += 1
        return None


@dataclass
class MeasuringJob:
    """Statistics in place of training; implements `running.Running`."""

    job: Job
    job_id: str
    document: bytes
    protection: Protection
    measurer: Measurer
    events: EventSink
    account: Account | None
    broken: bool = False
    usable: bool = True
    finding: Finding | None = None
    ended: bool = False

    def used(self) -> Mapping[str, DataKind]:
        return self.measurer.used()

    def without_withdrawn(self) -> None:
        """Nothing is kept between steps; each reads the catalogue."""

    def trouble(self) -> Finding | None:
        return self.finding or (unreadable(self.measurer.lost) if self.measurer.lost else None)

    def mended(self) -> None:
        self.measurer.lost.clear()

    def shape(self, request: Request, kind: Kind) -> Shape:
        if kind == "evaluate" and isinstance(self.measurer.sums, Evaluated):
            return scored_shape(self.job, self.measurer.sums)
        return measured_shape(self.job, 2 + cells_of(self.measurer.sums, request.round))

    def contribution(
        self, request: Request, blob: bytes, shape: Shape, site: int, late: DataKind = DataKind.NONE
    ) -> Contribution:
        evaluated = shape.kind == "evaluate"
        state = [] if evaluated else state_from_bytes(blob, self.measurer.sums.state_size(request.round))
        if not self.broken:
            self.finding = None
        if self.account is not None:
            plan = self.account.plan
            return self.account.spend(
                request, "measure", blob, lambda: Contribution(self._noised(request, state, plan), 1.0, np.zeros(0))
            )
        kind, wanted = DataKind.NONE, DataKind.VALIDATION if evaluated else DataKind.MEASURED
        try:
            if self.ended:
                raise sums_ended()
            if wanted in late:
                raise DataError(
                    "This site contributed nothing to earlier statistics of this data set, so it contributes nothing now.",
                    remedy="It takes part from the next cohort_epoch on, when all operators agree on one.",
                )
            patients, numbers = (
                self.measurer.evaluated(blob, site) if evaluated else self.measurer.exact(request.round, state)
            )
            kind = wanted if patients else DataKind.NONE
            self._measured(request)
        except Exception as problem:
            if not self.protection.protects or no_space(problem):
                self.finding = Finding(describe(problem))
                raise
            self._nothing(request, problem)  # a refusal would reveal something about its patients
            sums = self.measurer.sums
            numbers = nothing(self.job) if evaluated else to_limbs(np.zeros(2 + cells_of(sums, request.round)))
        return Contribution(np.zeros(0, np.float32), 0.0, numbers, kind)

    def _noised(self, request: Request, state: Sequence[float], plan: Plan) -> Float64Vector:
        if not self.broken:
            try:
                numbers = self.measurer.noised(request.round, state, plan)
                self._measured(request)
                return numbers
            except Exception as problem:
                if no_space(problem):
                    raise
                self._nothing(request, problem)
                self.broken = True  # from now on noise only, see `RunningJob`
        return self.measurer.with_noise(np.zeros(2 + cells_of(self.measurer.sums, request.round)), plan)

    def _measured(self, request: Request) -> None:
        self.events.emit("measured", job=request.job_id, round=request.round, left_out=dict(self.measurer.left_out))

    def _nothing(self, request: Request, problem: Exception) -> None:
        self.finding = Finding(f"The running job received no data from it. {describe(problem)}")
        self.events.emit(
            "contributed-nothing",
            job=request.job_id,
            round=request.round,
            text=describe(problem),
            where=where(problem),
        )
