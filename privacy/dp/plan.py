"""The noise of a job and what it charges, computed from the job alone, so that all parties get the same.

mode          one training attempt                                    what protects a patient
local         one or more steps, each noised at the site              the site's own noise; all others may collude
distributed   one step, one masked sum of discrete shares             the honest sites' shares together
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal

from salus.common.analyses import analysis_of
from salus.common.analyses.base import cells_of
from salus.common.analyses.exact import exact_size
from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.tasks.base import Task
from salus.privacy.contribution import Shape
from salus.privacy.dp.accounting import Release, epsilon, solve_noise

Kind = Literal["train", "evaluate", "measure"]
# What a round without noise was trained on, in exact numbers, over all sites.
COHORT = ("patients", "images", "left_out")
TAIL = 8.0  # the norm of Gaussian noise exceeds its root mean square by more than 8 sigma less than once in 1e14
# What a site allows each patient in a period unless its policy says otherwise: three jobs of the default epsilon in a year.
BUDGET_EPSILON, BUDGET_DELTA, BUDGET_DAYS = 10.0, 1e-5, 365
# A retry with local noise sends what was sent before; a site that restarted in between is left out of it.
EVALUATION_ATTEMPTS = {"local": 1, "distributed": 2}
# Clipped sums and norms are computed in double precision (`ghost`), whose rounding is far below this; noise is scaled to it.
ROUNDING = 1 + 2.0**-12


@dataclass(frozen=True)
class Plan:
    """What a job with noise does.

    Args:
        noise_multiplier: standard deviation of the noise over the largest change by one patient.
        evaluation_noise_multiplier: the same for the evaluation of the final model; 0 if there is none.
        steps: releases in one training attempt.
        attempts: training attempts that are paid for.
    """

    mode: Literal["local", "distributed"]
    noise_multiplier: float
    evaluation_noise_multiplier: float
    sampling_rate: float
    steps: int
    attempts: int
    epsilon: float
    delta: float

    def charge(self, kind: str) -> Release:
        """Return what one attempt of this kind, ``train``, ``measure`` or ``evaluate``, costs a patient."""
        mechanism: Literal["gaussian", "discrete-gaussian"] = (
            "gaussian" if self.mode == "local" else "discrete-gaussian"
        )
        if kind != "evaluate":
            return Release(
                mechanism=mechanism,
                noise_multiplier=self.noise_multiplier,
                sampling_rate=self.sampling_rate,
                count=self.steps,
            )
        return Release(
            mechanism=mechanism, noise_multiplier=self.evaluation_noise_multiplier, sampling_rate=1.0, count=1
        )

    def multiplier(self, kind: str) -> float:
        """Return the noise multiplier of one kind of release."""
        return self.evaluation_noise_multiplier if kind == "evaluate" else self.noise_multiplier

    def reserved(self) -> tuple[Release, ...]:
        """Return everything that the job may ever cost a patient."""
        training = self.charge("train")
        whole = training.times(self.steps * self.attempts)
        if self.evaluation_noise_multiplier == 0:
            return (whole,)
        return whole, self.charge("evaluate").times(EVALUATION_ATTEMPTS[self.mode])


def plan_of(job: Job) -> Plan | None:
    """Return the plan of a job, or None for a job without noise.

    Raises:
        JobError: the job's epsilon cannot be reached.
    """
    return _plan(job) if job.privacy.noised else None


@functools.lru_cache(maxsize=64)
def _plan(job: Job) -> Plan:
    privacy = job.privacy
    measures = job.statistics is not None  # every patient takes part in every step, and there is no evaluation
    attempts = job.job.rounds + math.ceil(job.job.rounds * privacy.spare_rounds)
    mode: Literal["local", "distributed"] = "local" if privacy.noise == "local" else "distributed"

    evaluation_noise = 0.0 if measures else _evaluation_noise(job, mode)

    def with_noise(noise_multiplier: float) -> Plan:
        return Plan(
            mode,
            noise_multiplier,
            evaluation_noise,
            1.0 if measures else privacy.sampling_rate,
            job.noised_steps,
            attempts,
            privacy.epsilon,
            privacy.delta,
        )

    return with_noise(solve_noise(privacy.epsilon, privacy.delta, lambda z: with_noise(z).reserved()))


def budget_cost(plan: Plan) -> float:
    """Return the epsilon that a whole job takes of a site's default budget, at the budget's own delta."""
    return epsilon(plan.reserved(), BUDGET_DELTA)


def _evaluation_noise(job: Job, mode: Literal["local", "distributed"]) -> float:
    """Return the noise with which the evaluation by itself, all its attempts, costs its share of epsilon; 0 for no evaluation.

    Together with training it costs less than the sum of both, and training gets what is left.
    """
    privacy = job.privacy
    if privacy.evaluation_share == 0:
        return 0.0

    def alone(noise_multiplier: float) -> tuple[Release, ...]:
        plan = Plan(mode, noise_multiplier, noise_multiplier, 1.0, 1, 1, privacy.epsilon, privacy.delta)
        return (plan.charge("evaluate").times(EVALUATION_ATTEMPTS[mode]),)

    return solve_noise(privacy.evaluation_share * privacy.epsilon, privacy.delta, alone)


def spent(plan: Plan, training_attempts: int, evaluations: int) -> float:
    """Return the epsilon of a patient after so many attempts, at the plan's delta."""
    training = plan.charge("train")
    releases = [training.times(training.count * training_attempts)]
    if evaluations:
        releases.append(plan.charge("evaluate").times(evaluations))
    return epsilon(releases, plan.delta)


def shape_of(job: Job, kind: Kind, parameters: int, task: Task) -> Shape:
    """Return the public shape of the vectors of one kind of request.

    Args:
        parameters: of the network.

    Under differential privacy nothing stands beside the noised part: training has no statistics, and the statistics of an
    evaluation take the update's place, so that they are noised.

    Raises:
        JobError: an evaluation of a job that has none.
    """
    clip_norm_l2 = job.aggregation.update_clip_norm_l2
    if not job.privacy.noised:
        statistics = task.statistics_size + exact_size(len(COHORT))
        return Shape(parameters if kind == "train" else 0, statistics, clip_norm_l2, kind)
    if kind == "train":
        return Shape(parameters, 0, clip_norm_l2 + _room(job, "train", parameters), kind)
    if job.privacy.evaluation_share == 0:
        raise JobError("This job does not evaluate its model at the sites.", remedy="Raise privacy.evaluation_share.")
    size = task.private_statistics_size
    return Shape(size, 0, float(job.aggregation.max_patients) + _room(job, "evaluate", size), kind)


def measured_shape(job: Job, cells: int) -> Shape:
    """Return the public shape of the vectors of one step of statistics: noised rows of patients, or exact numbers.

    Args:
        cells: numbers of the step; those of a job with noise have norm at most one for each patient.
    """
    if job.privacy.noised:
        return Shape(cells, 0, float(job.aggregation.max_patients) + _room(job, "measure", cells), "measure")
    return Shape(0, exact_size(cells), job.aggregation.update_clip_norm_l2, "measure")


def _room(job: Job, kind: Kind, numbers: int) -> float:
    """Return what the bound on a vector's norm leaves for local noise, which would otherwise be cut with what it covers."""
    plan = plan_of(job)
    if plan is None or plan.mode != "local" or (kind == "train" and not job.one_step):
        return 0.0
    # A step is divided by the expected number of patients; several steps have no such simple bound.
    divisor = plan.sampling_rate * job.privacy.patients_per_site if kind == "train" else 1.0
    return plan.multiplier(kind) * sensitivity_l2(job, kind) * (math.sqrt(numbers) + TAIL) / divisor


def measured_shapes(job: Job) -> list[Shape]:
    """Return the shapes of all steps of a job of statistics, so that a protection can refuse sums that do not fit it."""
    analysis = analysis_of(job)
    return [measured_shape(job, 2 + cells_of(analysis, step)) for step in range(1, analysis.steps + 1)]


def sensitivity_l2(job: Job, kind: str) -> float:
    """Return how far adding or removing one patient moves the vector of a site, in the vector's own units."""
    return (job.privacy.clip_norm_l2 if kind == "train" else 1.0) * ROUNDING
