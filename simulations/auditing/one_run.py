"""The one-run audit of a job: canaries at one site, rounds through the job's own path, and guesses from what was released."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from salus.client.running import RunningJob
from salus.common.batch import Batch
from salus.common.job import Job
from salus.common.start.applying import first_network
from salus.common.start.weights import Weights
from salus.common.tasks import make_task
from salus.common.tasks.base import Task
from salus.common.tasks.steps import with_noise
from salus.common.vectors import Layout, write_parameters
from salus.privacy.audit.canaries import make_canaries, scores
from salus.privacy.audit.one_run import Found, audited
from salus.privacy.dp.plan import plan_of
from salus.privacy.noise_in_sum import noise_in_sum
from salus.privacy.shapes import shape_of
from salus.simulations.auditing.asked import Asked
from salus.simulations.auditing.canary_data import WithCanaries
from salus.simulations.auditing.report import MASKED, NOISED, PLAIN, Tried
from salus.simulations.auditing.world import AUDITED, Change, Observed, Round

MOST_IMAGES = 8  # of one canary: a patient who counts once for each image stands out
UNKNOWN = 0.1  # what is in an update without noise beside the canaries, over the clip norm; not critical
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Coins:
    """The canaries of an audit and their coin flips.

    Args:
        took_part: boolean ``[canaries]``.
        images: of each canary.
    """

    canaries: Batch
    took_part: npt.NDArray[np.bool_]
    images: int

    def change(self, *, alone: bool = False) -> Change:
        """Return what adds the canaries that take part to the audited site's training data.

        Args:
            alone: whether they replace the site's own.
        """
        inside = self.canaries.rows(torch.from_numpy(np.flatnonzero(self.took_part)))

        def add(site: int, running: RunningJob) -> None:
            if site != AUDITED:
                return
            assert running.data is not None  # Safe because virtual hospitals have data.
            running.data = replace(
                running.data, train=WithCanaries(running.data.train, inside, self.images, alone=alone)
            )

        return add


def flipped(job: Job, count: int, seed: int) -> Coins:
    """Return canaries for a job's task, and fair coin flips that follow from the seed."""
    rng = np.random.default_rng([seed, 0xC0])
    images = min(MOST_IMAGES, job.privacy.images_per_patient) if job.privacy.noised else 1
    return Coins(make_canaries(make_task(job.task).spec, count, rng), rng.random(count) < 0.5, images)


def guessed(
    job: Job,
    coins: Coins,
    seen: Observed,
    view: Callable[[Round], Vector],
    sites: int,
    start: Weights | None = None,
) -> Vector:
    """Return every canary's scores, ``[auditors, canaries]``: the sum over all rounds of how much of it is in the update.

    One auditor believes in the noise that the job states, the other in nearly none: each is the better one where it is right.

    Args:
        view: what of a round these attackers see.
    """
    task, model = make_task(job.task), first_network(job, start)
    noises = [UNKNOWN * job.privacy.clip_norm_l2, *([_noise(job, seen, sites)] if job.privacy.noised else [])]
    loss = functools.partial(_losses, task)
    total = np.zeros((len(noises), len(coins.took_part)))
    for one in seen.rounds:
        total += scores(
            model,
            loss,
            coins.canaries,
            np.asarray(view(one), dtype=np.float64),
            job.privacy.clip_norm_l2,
            functools.partial(_write, seen.layout),
            np.asarray(one.model, dtype=np.float64),
            noises,
        )
    return total


def _noise(job: Job, seen: Observed, sites: int) -> float:
    """Return the noise in what is released, over the standard deviation of one canary's share of it."""
    chance = job.privacy.sampling_rate / 2  # that a canary takes part in the job and in a step
    shape = shape_of(job, "train", seen.layout.size, make_task(job.task))
    seen_sites = sites if job.privacy.noise == "distributed" else 1
    plan = plan_of(job)
    assert plan is not None  # Safe because the job is noised.
    sigma = (
        noise_in_sum(job, shape, roster=sites, sites=seen_sites)
        if plan.mode == "distributed"
        else plan.noise_multiplier * job.privacy.clip_norm_l2
    )
    return sigma / math.sqrt(chance * (1 - chance))


def found(job: Job, coins: Coins, points: Vector, confidence: float) -> Found:
    """Return the bound from these scores, at the job's delta (0 for a job without noise, which states none)."""
    delta = job.privacy.delta if job.privacy.noised else 0.0
    return audited(list(points), coins.took_part, delta, confidence=confidence)


def _losses(task: Task, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    noise = torch.Generator().manual_seed(0)
    step = next(step for step in task.steps if step.data)
    return task.losses(model, with_noise(batch, task.spec, noise), step)


def _write(layout: Layout, model: torch.nn.Module, vector: Vector) -> None:
    write_parameters(model, layout, vector)  # type: ignore[arg-type]  # double precision for the difference quotient


class OneRun:
    """See `asked.Attack`; the canaries stand behind the patients of site 1."""

    title: ClassVar[str] = "one-run audit"
    figure: ClassVar[str] = "epsilon, lower bound"
    nothing: ClassVar[float] = 0.0

    def objection(self, job: Job) -> str:
        """See `Attack.objection`."""
        return ""

    def tried(self, asked: Asked) -> list[Tried]:
        """See `Attack.tried`."""
        job, rounds = asked.job, asked.job.job.rounds
        coins = flipped(job, asked.canaries, asked.seed)
        seen = asked.observed(job, "canaries", change=coins.change(), done=lambda round_: asked.tell(round_, rounds))
        results = []
        for against in asked.against:
            view, text = view_of(job, against)
            points = guessed(job, coins, seen, view, asked.sites, asked.target.start)
            bound = found(job, coins, points, asked.confidence)
            note = f"{text}; {rounds} rounds; {bound.correct} of {bound.guesses} guesses were correct"
            plainly = (
                f"Of made-up patients, {bound.correct} of {bound.guesses} guesses about who took part were right: epsilon is at "
                f"least {bound.lower_bound:.2f}."
            )
            value = round(bound.lower_bound, 4)
            results.append(Tried(self.title, against, self.figure, value, 0.0, note, plainly=plainly, bound=bound))
        return results


def view_of(job: Job, against: str) -> tuple[Callable[[Round], Vector], str]:
    """Return what attackers see of a round, and a note on it."""
    if against == PLAIN:
        return own, "one site's update, unprotected"
    if against == MASKED:
        return total, "the sum over all sites"
    assert against == NOISED
    if job.privacy.noise == "local":
        return own, "one site's noised update: what all others together can take out of the sum"
    return total, "the noised sum over all sites"


def own(one: Round) -> Vector:
    """Return one site's update, as the coordinator reads it without protection."""
    return one.own


def total(one: Round) -> Vector:
    """Return the sum over all sites."""
    return one.total
