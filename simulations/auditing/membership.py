"""Membership inference with shadow models: every run trains the job on a random half of each site's patients."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from salus.client.data.tensors import Use
from salus.client.running import RunningJob
from salus.common.batch import Batch
from salus.common.errors import DataError
from salus.common.job import Job
from salus.common.start.applying import first_network
from salus.common.tasks import make_task
from salus.common.tasks.steps import with_noise
from salus.common.vectors import FloatVector, layout_of, write_parameters
from salus.privacy.audit.guessing import area, interval, true_positive_rate
from salus.privacy.audit.membership import confidence, offline_scores
from salus.simulations.auditing.asked import Asked
from salus.simulations.auditing.cohort import Cohort, Patient, patients_of
from salus.simulations.auditing.report import MASKED, NOISED, PLAIN, Tried
from salus.simulations.auditing.world import AUDITED, Observed

AT_ONCE = 256  # samples in one pass
FEWEST = 2  # patients of a site, of whom one half can be drawn
RATES = (0.01, 0.1)
Vector = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
WHOSE = {
    PLAIN: "the model that one site sends back in the last round, about that site's patients",
    MASKED: "the final model without noise, about the patients of all sites",
    NOISED: "the final model of the job, about the patients of all sites",
}


class Membership:
    """See `asked.Attack`.

    Each run is the target once, with all others as its shadow models. The attacker knows the candidates, the job, and other
    patients of the same hospitals, and does not know which half took part.
    """

    title: ClassVar[str] = "membership inference"
    figure: ClassVar[str] = "area under the curve (95 % interval)"
    nothing: ClassVar[float] = 0.5

    def objection(self, job: Job) -> str:
        """See `Attack.objection`."""
        return ""

    def tried(self, asked: Asked) -> list[Tried]:
        """See `Attack.tried`."""
        runs, rng = asked.shadows + 1, np.random.default_rng([asked.seed, 0x111])
        people: dict[int, list[Patient]] = {}
        halves: list[Flags] = []
        fits: dict[str, list[Vector]] = {against: [] for against in asked.against}
        for run in range(runs):
            took_part: dict[int, Flags] = {}

            def half(site: int, running: RunningJob, took_part: dict[int, Flags] = took_part) -> None:
                assert running.data is not None  # Safe because virtual hospitals have data.
                known = people.setdefault(site, patients_of(running.data.train))
                if len(known) < FEWEST:
                    raise DataError(f"A hospital has fewer than {FEWEST} patients.", remedy="Use fewer hospitals.")
                if site not in took_part:
                    took_part[site] = rng.permutation(len(known)) < len(known) // 2
                chosen = [patient for patient, inside in zip(known, took_part[site], strict=True) if inside]
                running.data = replace(running.data, train=Cohort(chosen))

            seen = asked.observed(asked.job, f"shadow-{run}", change=half)
            sites = sorted(took_part)
            halves.append(np.concatenate([took_part[site] for site in sites]))
            candidates = [patient for site in sites for patient in people[site]]
            for against in asked.against:
                fits[against].append(_fits(asked, _model(seen, against), candidates))
            asked.tell(run + 1, runs)
        took = np.stack(halves)
        first = len(people[AUDITED])
        return [
            self._answer(asked, against, np.stack(fits[against]), took, first if against == PLAIN else took.shape[1])
            for against in asked.against
        ]

    def _answer(self, asked: Asked, against: str, fits: Vector, took: Flags, count: int) -> Tried:
        scores, truth = offline_scores(fits, took)[:, :count], took[:, :count]
        value = area(scores, truth)
        low, high = interval(scores, truth, np.random.default_rng(asked.seed))
        rates = {f"true positives at {rate:.0%} false ones": true_positive_rate(scores, truth, rate) for rate in RATES}
        learnt = "more than a guess" if low > self.nothing else "not more than a guess, as far as this attack can see"
        plainly = (
            f"Asked whether a patient took part, an attacker with {WHOSE[against].partition(',')[0]} is right for a random pair "
            f"in {value:.0%} of cases; guessing gives 50 %. That is {learnt}."
        )
        text = f"{WHOSE[against]}; {asked.shadows} shadow models, {count} patients"
        return Tried(
            self.title, against, self.figure, round(value, 4), self.nothing, text, (round(low, 4), round(high, 4)),
            {name: round(rate, 4) for name, rate in rates.items()}, plainly,
        )  # fmt: skip


def _model(seen: Observed, against: str) -> FloatVector:
    """Return the parameters that are attacked."""
    if against != PLAIN:
        return seen.final
    last = seen.rounds[-1]
    return (last.model + last.own / last.weight).astype(np.float32) if last.weight > 0 else last.model


def _fits(asked: Asked, parameters: FloatVector, candidates: Sequence[Patient]) -> Vector:
    """Return the fit of a model to each patient: the mean over the patient's samples, ``[patients]``."""
    task, model = make_task(asked.job.task), first_network(asked.job, asked.target.start)
    write_parameters(model, layout_of(model), parameters)
    model.eval()
    everybody = Cohort(candidates)
    step = next(step for step in task.steps if step.data)
    noise = torch.Generator().manual_seed(0)  # one draw for all models, so that they can be compared
    found = []
    with torch.inference_mode():
        for rows in everybody.parts(torch.arange(len(everybody)), AT_ONCE):
            batch = with_noise(_once(everybody, rows), task.spec, noise)
            found.append(task.losses(model, batch, step).double())
    fits = confidence(torch.cat(found).numpy())
    return np.array([fits[rows].mean() for rows in everybody.by_patient()])


def _once(data: Cohort, rows: torch.Tensor) -> Batch:
    """Return one copy of each sample."""
    return data.batch(rows, Use(b"")).rows(slice(None, None, data.copies))
