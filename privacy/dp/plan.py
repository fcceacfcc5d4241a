"""The noise of a job and its privacy cost, computed from the job alone, so that all parties get the same values.

mode          one training attempt                                    what protects a patient
local         one or more steps, each noised at the site              the site's own noise; all others may collude
distributed   one step, one masked sum of discrete shares             the honest sites' shares together
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal

from salus.common.job import Job
from salus.privacy.dp.accounting import Release, epsilon, solve_noise

# A site's default budget for each patient: three jobs of the default epsilon in a year.
BUDGET_EPSILON, BUDGET_DELTA, BUDGET_DAYS = 10.0, 1e-5, 365
# A retry with local noise resends the same vector; a site that restarted in between is left out.
EVALUATION_ATTEMPTS = {"local": 1, "distributed": 2}
# Clipped sums and norms are computed in double precision (`ghost`), whose rounding is far below this; noise is scaled to it.
ROUNDING = 1 + 2.0**-12


Mode = Literal["local", "distributed"]


@dataclass(frozen=True)
class Plan:
    """The noise of a job and its number of releases.

    Args:
        noise_multiplier: standard deviation of the noise divided by the sensitivity to one patient.
        evaluation_noise_multiplier: the same for the evaluation of the final model; 0 if there is none.
        steps: releases in one training attempt.
        attempts: training attempts that the budget covers.
    """

    mode: Mode
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
    privacy = job.privacy
    if not privacy.noised:
        return None
    measures = job.statistics is not None  # every patient takes part in every step, and there is no evaluation
    return _plan(
        "local" if privacy.noise == "local" else "distributed",
        privacy.epsilon,
        privacy.delta,
        1.0 if measures else privacy.sampling_rate,
        0.0 if measures else privacy.evaluation_share,
        job.noised_steps,
        job.job.rounds + math.ceil(job.job.rounds * privacy.spare_rounds),
    )


@functools.lru_cache(maxsize=64)
def _plan(mode: Mode, epsilon: float, delta: float, rate: float, share: float, steps: int, attempts: int) -> Plan:
    evaluation_noise = _evaluation_noise(mode, share * epsilon, delta) if share else 0.0

    def with_noise(noise_multiplier: float) -> Plan:
        return Plan(mode, noise_multiplier, evaluation_noise, rate, steps, attempts, epsilon, delta)

    return with_noise(solve_noise(epsilon, delta, lambda z: with_noise(z).reserved()))


def budget_cost(plan: Plan) -> float:
    """Return the epsilon of a whole job at the delta of a site's default budget."""
    return epsilon(plan.reserved(), BUDGET_DELTA)


def _evaluation_noise(mode: Mode, epsilon: float, delta: float) -> float:
    """Return the noise with which all attempts of the evaluation cost `epsilon`.

    Together with training they cost less than the sum of both, and training gets the remaining budget.
    """

    def alone(noise_multiplier: float) -> tuple[Release, ...]:
        plan = Plan(mode, noise_multiplier, noise_multiplier, 1.0, 1, 1, epsilon, delta)
        return (plan.charge("evaluate").times(EVALUATION_ATTEMPTS[mode]),)

    return solve_noise(epsilon, delta, alone)


def spent(plan: Plan, training_attempts: int, evaluations: int) -> float:
    """Return the epsilon of a patient after these attempts, at the plan's delta."""
    training = plan.charge("train")
    releases = [training.times(training.count * training_attempts)]
    if evaluations:
        releases.append(plan.charge("evaluate").times(evaluations))
    return epsilon(releases, plan.delta)


def sensitivity_l2(job: Job, kind: str) -> float:
    """Return the sensitivity of a site's vector to adding or removing one patient, in the vector's units."""
    return (job.privacy.clip_norm_l2 if kind == "train" else 1.0) * ROUNDING
