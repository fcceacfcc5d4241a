"""The public shapes of a job: the size and the bound of every vector that it can ask its sites for.

A protection checks all of them when the job is submitted, and each site again before it reserves anything, so no job spends
privacy budget, or hours, on a sum that would be refused at the end.
"""

import functools
import math

from salus.common.cost import cost_of
from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.subgroups import groups_of
from salus.common.subgroups.exact import grouped_size
from salus.common.sums import sums_of
from salus.common.sums.base import cells_of
from salus.common.sums.exact import exact_size
from salus.common.sums.scoring import Evaluated
from salus.common.tasks import make_task
from salus.common.tasks.base import Task
from salus.privacy.contribution import Kind, Shape
from salus.privacy.dp.plan import plan_of, sensitivity_l2

# Exact counts of a round without noise, over all sites: training data, and sites that lost what they had kept for the strategy.
COHORT = ("patients", "images", "left_out", "restarted")
TAIL = 8.0  # the norm of Gaussian noise exceeds its root mean square by more than 8 sigma with probability below 1e-14


@functools.lru_cache(maxsize=64)
def shapes_of(job: Job, parameters: int | None = None) -> tuple[Shape, ...]:
    """Return every shape that a job can ask for: each step of statistics, or training and then the evaluation, if there is one.

    Args:
        parameters: trained ones of the network, if that is known without building it.

    Raises:
        JobError: unknown names, settings that the network does not support, or an epsilon that cannot be reached.
    """
    if job.statistics is not None:
        sums = sums_of(job)
        measured = tuple(measured_shape(job, 2 + cells_of(sums, step)) for step in range(1, sums.steps + 1))
        return (
            (*measured, scored_shape(job, sums))
            if isinstance(sums, Evaluated) and job.statistics.held_out
            else measured
        )
    task, parameters = make_task(job.task), cost_of(job).parameters if parameters is None else parameters
    evaluated = not job.privacy.noised or job.privacy.evaluation_share > 0
    kinds: tuple[Kind, ...] = ("train", "evaluate") if evaluated else ("train",)
    return tuple(shape_of(job, kind, parameters, task) for kind in kinds)


def shape_of(job: Job, kind: Kind, parameters: int, task: Task) -> Shape:
    """Return the public shape of the vectors of one kind of request.

    Args:
        parameters: of the network.

    With differential privacy, every entry is noised: training has no statistics, and the statistics of an evaluation take the
    place of the update. The rows of an evaluation are followed by those of each subgroup.

    Raises:
        JobError: an evaluation in a job without one.
    """
    clip_norm_l2 = job.aggregation.update_clip_norm_l2
    if not job.privacy.noised:
        statistics = task.statistics_size + exact_size(len(COHORT))
        if kind == "evaluate":
            statistics += grouped_size(groups_of(job), task.statistics_size)
        return Shape(parameters if kind == "train" else 0, statistics, clip_norm_l2, kind)
    if kind == "train":
        return Shape(parameters, 0, clip_norm_l2 + _room(job, "train", parameters), kind)
    if job.privacy.evaluation_share == 0:
        raise JobError(
            "This job does not evaluate its model at the sites.", remedy="Set privacy.evaluation_share above 0."
        )
    size = task.private_statistics_size * (1 + groups_of(job).count)
    return Shape(size, 0, float(job.aggregation.max_patients) + _room(job, "evaluate", size), kind)


def scored_shape(job: Job, sums: Evaluated) -> Shape:
    """Return the public shape of the evaluation of a finished model from sums."""
    return shape_of(job, "evaluate", 0, sums.evaluation)


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
