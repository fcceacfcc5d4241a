"""The noise of a job and its privacy cost, computed from the job alone, so that all parties get the same values.

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
from salus.privacy.contribution import Kind, Shape
from salus.privacy.dp.accounting import Release, epsilon, solve_noise

# Exact counts of the training data of a round without noise, over all sites.
COHORT = ("patients", "images", "left_out")
TAIL = 8.0  # the norm of Gaussian noise exceeds its root mean square by more than 8 sigma with probability below 1e-14
# A site's default budget for each patient: three jobs of the default epsilon in a year.
BUDGET_EPSILON, BUDGET_DELTA, BUDGET_DAYS = 10.0, 1e-5, 365
# A retry with local noise resends the same vector; a site that restarted in between is left out.
EVALUATION_ATTEMPTS = {"local": 1, "distributed": 2}
# Clipped sums and norms are computed in double precision (`ghost`), whose rounding is far below this; noise is scaled to it.
ROUNDING = 1 + 2.0**-12


@dataclass(frozen=True)
class Plan:
    """The noise of a job and its number of releases.

    Args:
        noise_multiplier: standard deviation of the noise divided by the sensitivity to one patient.
        evaluation_noise_multiplier: the same for the evaluation of the final model; 0 if there is none.
        steps: releases in one training attempt.
        attempts: training attempts that the budget covers.
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
        """Return the releases of one attempt of this kind: ``train``, ``measure`` or ``evaluate``."""
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
        """Return all releases that the job may ever make."""
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
    """Return the epsilon of a whole job at the delta of a site's default budget."""
    return epsilon(plan.reserved(), BUDGET_DELTA)


def _evaluation_noise(job: Job, mode: Literal["local", "distributed"]) -> float:
    """Return the noise with which all attempts of the evaluation cost its share of epsilon; 0 without an evaluation.

    Together they cost less than the sum of both, and training gets the remaining budget.
    """
    privacy = job.privacy
    if privacy.evaluation_share == 0:
        return 0.0

    def alone(noise_multiplier: float) -> tuple[Release, ...]:
        plan = Plan(mode, noise_multiplier, noise_multiplier, 1.0, 1, 1, privacy.epsilon, privacy.delta)
        return (plan.charge("evaluate").times(EVALUATION_ATTEMPTS[mode]),)

    return solve_noise(privacy.evaluation_share * privacy.epsilon, privacy.delta, alone)


def spent(plan: Plan, training_attempts: int, evaluations: int) -> float:
    """Return the epsilon of a patient after these attempts, at the plan's delta."""
    training = plan.charge("train")
    releases = [training.times(training.count * training_attempts)]
    if evaluations:
        releases.append(plan.charge("evaluate").times(evaluations))
    return epsilon(releases, plan.delta)


def shape_of(job: Job, kind: Kind, parameters: int, task: Task) -> Shape:
    """Return the public shape of the vectors of one kind of request.

    Args:
        parameters: of the network.

    With differential privacy, every entry is noised: training has no statistics, and the statistics of an evaluation take the
    place of the update.

    Raises:
        JobError: an evaluation in a job without one.
    """
    clip_norm_l2 = job.aggregation.update_clip_norm_l2
    if not job.privacy.noised:
        statistics = task.statistics_size + exact_size(len(COHORT))
        return Shape(parameters if kind == "train" else 0, statistics, clip_norm_l2, kind)
    if kind == "train":
        return Shape(parameters, 0, clip_norm_l2 + _room(job, "train", parameters), kind)
    if job.privacy.evaluation_share == 0:
        raise JobError(
            "This job does not evaluate its model at the sites.", remedy="Set privacy.evaluation_share above 0."
        )
    size = task.private_statistics_size
    return Shape(size, 0, float(job.aggregation.max_patients) + _room(job, "evaluate", size), kind)


def measured_shape(job: Job, cells: int) -> Shape:
    """Return the public shape of the vectors of one step of statistics: noised rows of patients, or exact numbers.

    Args:
        cells: number of cells in the step; with noise, the cells of one patient have norm at most one.
    """
    if job.privacy.noised:
        return Shape(cells, 0, float(job.aggregation.max_patients) + _room(job, "measure", cells), "measure")
    return Shape(0, exact_size(cells), job.aggregation.update_clip_norm_l2, "measure")


def _room(job: Job, kind: Kind, numbers: int) -> float:
    """Return the margin for local noise in the bound on a vector's norm, without which the noise would be clipped."""
    plan = plan_of(job)
    if plan is None or plan.mode != "local" or (kind == "train" and not job.one_step):
        return 0.0
    # A step is divided by the expected number of patients; several steps have no such simple bound.
    divisor = plan.sampling_rate * job.privacy.patients_per_site if kind == "train" else 1.0
    return plan.multiplier(kind) * sensitivity_l2(job, kind) * (math.sqrt(numbers) + TAIL) / divisor


def measured_shapes(job: Job) -> list[Shape]:
    """Return the shapes of all steps of a statistics job, so that a protection can refuse sums that are too large."""
    analysis = analysis_of(job)
    return [measured_shape(job, 2 + cells_of(analysis, step)) for step in range(1, analysis.steps + 1)]


def sensitivity_l2(job: Job, kind: str) -> float:
    """Return the sensitivity of a site's vector to adding or removing one patient, in the vector's units."""
    return (job.privacy.clip_norm_l2 if kind == "train" else 1.0) * ROUNDING
