"""Property inference: does a hospital have many patients of a class? Guessed from updates; a coin decides for each hospital."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from salus.client.data.tensors import TensorSet, Use
from salus.client.running import RunningJob
from salus.common.errors import DataError
from salus.common.job import Job
from salus.privacy.audit.guessing import area, interval
from salus.privacy.audit.properties import learn, thinned
from salus.simulations.auditing.asked import Asked
from salus.simulations.auditing.cohort import Cohort, Patient, patients_of
from salus.simulations.auditing.report import MASKED, NOISED, PLAIN, Tried
from salus.simulations.auditing.world import Change, Observed

HIGH, LOW = 0.75, 0.25  # shares of the patients with the property
FEWEST = 4  # patients of a site in a run
RUNS = {PLAIN: 16, NOISED: 10}  # of the job; with five sites these are 80 and 50 guesses
ROUNDS = {PLAIN: 1, NOISED: 6}  # seen in each; more would tell more, and take longer
MOST_OF_A_TENSOR = 4096
Vector = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass
class Draws:
    """The patients of each site by the property, and what a run draws of them.

    Args:
        what: the property in words.
    """

    rng: np.random.Generator
    what: str = ""
    threshold: float = 0.0
    people: dict[int, tuple[list[Patient], list[Patient]]] = field(default_factory=dict)
    coins: dict[int, bool] = field(default_factory=dict)

    def change(self, job: Job) -> Change:
        """Return what replaces the data of every site in one run."""
        self.coins = {}
        drawn: dict[int, Cohort] = {}

        def draw(site: int, running: RunningJob) -> None:
            assert running.data is not None  # Safe because virtual hospitals have data.
            if site not in self.people:
                self.people[site] = self._divided(running.data.train, job)
            if site not in drawn:
                self.coins[site] = bool(self.rng.random() < 0.5)
                drawn[site] = self._drawn(*self.people[site], HIGH if self.coins[site] else LOW)
            running.data = replace(running.data, train=drawn[site])

        return draw

    def _drawn(self, having: Sequence[Patient], lacking: Sequence[Patient], share: float) -> Cohort:
        count = int(min(len(having), len(lacking)) / HIGH)
        if count < FEWEST:
            raise DataError(
                f"A hospital has too few patients with or without the property ({self.what}).",
                remedy="Use fewer hospitals.",
            )
        mine = round(count * share)
        chosen = [having[place] for place in self.rng.permutation(len(having))[:mine]]
        chosen += [lacking[place] for place in self.rng.permutation(len(lacking))[: count - mine]]
        return Cohort([chosen[place] for place in self.rng.permutation(count)])

    def _divided(self, data: TensorSet, job: Job) -> tuple[list[Patient], list[Patient]]:
        patients = patients_of(data)
        values = _values(data, patients)
        labels = np.unique(values)
        if not self.what:
            shares = {label: float((values == label).mean()) for label in labels}
            if len(labels) <= len(job.task.classes) and (labels == labels.astype(int)).all() and len(labels) > 1:
                label = min(shares, key=lambda one: abs(shares[one] - 0.5))
                self.what, self.threshold = f"patients of the class {job.task.classes[int(label)]!r}", float(label)
            else:
                self.what, self.threshold = "patients above the median", float(np.median(values))
        if self.what.startswith("patients of"):
            flags = values == self.threshold
        else:
            flags = values > self.threshold
        return [p for p, yes in zip(patients, flags, strict=True) if yes], [
            p for p, yes in zip(patients, flags, strict=True) if not yes
        ]


def _values(data: TensorSet, patients: Sequence[Patient]) -> Vector:
    """Return a number for each patient: the label, or where labels say nothing the mean brightness of the first image."""
    labels = data.targets().double()
    if labels.dim() == 1 and bool((labels != labels[0]).any()):
        return np.array([float(labels[patient.rows[0]]) for patient in patients])
    found = []
    for patient in patients:
        batch = data.batch(torch.tensor(patient.rows[:1]), Use(b""))
        name = next(name for name in batch if batch[name].is_floating_point())
        found.append(float(batch[name].double().mean()))
    return np.array(found)


class Property:
    """See `asked.Attack`.

    The meta-classifier learns from plain updates of the first round: to guess about one site from those of the other sites, to
    guess from a sum from those of all other runs.
    """

    title: ClassVar[str] = "property inference"
    figure: ClassVar[str] = f"area under the curve (95 % interval): is a site's share {HIGH:.0%} or {LOW:.0%}"
    nothing: ClassVar[float] = 0.5

    def __init__(self) -> None:
        self._learnt: Vector | None = None

    def objection(self, job: Job) -> str:
        """See `Attack.objection`."""
        return ""

    def tried(self, asked: Asked) -> list[Tried]:
        """See `Attack.tried`."""
        noised = asked.job.privacy.noised
        if noised and self._learnt is None:
            raise DataError(
                "The classifier needs updates without noise to learn from, and these were not to be had.",
                remedy="Use more hospitals.",
            )
        count, rounds = (RUNS[NOISED], ROUNDS[NOISED]) if noised else (RUNS[PLAIN], ROUNDS[PLAIN])
        rounds = min(rounds, asked.job.job.rounds)
        draws = Draws(np.random.default_rng([asked.seed, 0x9]))
        alone: list[list[Vector]] = []
        sums: list[Vector] = []
        truth: list[list[bool]] = []
        for run in range(count):
            seen = asked.observed(asked.job, f"run-{run}", change=draws.change(asked.job), rounds=rounds)
            one, every = _features(seen)
            alone.append(one)
            sums.append(every)
            truth.append([draws.coins[site] for site in sorted(draws.coins)])
            asked.tell(run + 1, count)
        updates, flags = np.array(alone), np.array(truth)
        results = []
        for against in asked.against:
            if against == PLAIN:
                scores = _without_own_site(updates, flags)
            elif against == MASKED:
                scores = _without_own_run(updates, flags, np.array(sums))
            else:
                assert self._learnt is not None  # Safe because it was checked above.
                own = asked.job.privacy.noise == "local"
                scores = updates @ self._learnt if own else _spread(np.array(sums) @ self._learnt, flags)
            results.append(self._answer(asked, against, scores, flags, draws.what, rounds))
        if not noised:
            self._learnt = learn(updates.reshape(-1, updates.shape[-1]), flags.ravel(), noisy=True)
        return results

    def _answer(self, asked: Asked, against: str, scores: Vector, truth: Flags, what: str, rounds: int) -> Tried:
        value = area(scores, truth)
        low, high = interval(scores, truth, np.random.default_rng(asked.seed))
        known = "more than a guess" if low > self.nothing else "not more than a guess, as far as this attack can see"
        plainly = f"Whether a hospital has many {what} is told right in {value:.0%} of random pairs: {known}."
        text = (
            f"{what}; {len(truth)} runs of {truth.shape[1]} sites, the first {rounds} of {asked.job.job.rounds} rounds"
        )
        limits = (round(low, 4), round(high, 4))
        return Tried(self.title, against, self.figure, round(value, 4), self.nothing, text, limits, {}, plainly)


def _features(seen: Observed) -> tuple[list[Vector], Vector]:
    """Return the mean update over the rounds of each site, and of the sum."""
    sizes = [int(np.prod(spec.shape)) for spec in seen.layout.specs]

    def mean(vectors: Sequence[Vector]) -> Vector:
        found: Vector = np.mean([thinned(vector, sizes, MOST_OF_A_TENSOR) for vector in vectors], axis=0)
        return found

    sites = sorted(seen.rounds[0].each)
    alone = [mean([round_.each[site] for round_ in seen.rounds]) for site in sites]
    return alone, mean([round_.total for round_ in seen.rounds])


def _without_own_site(updates: Vector, truth: Flags) -> Vector:
    """Return scores ``[runs, sites]`` of classifiers that never saw an update of the site."""
    scores = np.zeros(truth.shape)
    for site in range(truth.shape[1]):
        others = np.arange(truth.shape[1]) != site
        weights = learn(updates[:, others].reshape(-1, updates.shape[-1]), truth[:, others].ravel())
        scores[:, site] = updates[:, site] @ weights
    return scores


def _without_own_run(updates: Vector, truth: Flags, sums: Vector) -> Vector:
    """Return scores ``[runs, sites]`` of the sums by classifiers that never saw an update of the run."""
    scores = np.zeros(len(sums))
    for run in range(len(sums)):
        others = np.arange(len(sums)) != run
        weights = learn(updates[others].reshape(-1, updates.shape[-1]), truth[others].ravel())
        scores[run] = sums[run] @ weights
    return _spread(scores, truth)


def _spread(scores: Vector, truth: Flags) -> Vector:
    """Return the score of a sum as the guess about each of its sites."""
    return np.repeat(scores[:, None], truth.shape[1], axis=1)
