"""A site's checks before it trains a job's model: it must be the one the job starts from, and must not reveal single samples."""

from collections.abc import Sequence

import numpy as np
import torch

from salus.common.errors import JobError, Refused
from salus.common.job import Job
from salus.common.start.applying import first_network, taken_by
from salus.common.start.weights import Weights
from salus.common.vectors import FloatVector, Layout, read_parameters
from salus.privacy.records.architecture import revealing_layers

# Initial parameters are drawn by vectorised code, which rounds differently on other processors. Crafted ones are far off.
RELATIVE, ABSOLUTE = 1e-5, 1e-7


def first_model(job: Job, layout: Layout, start: Weights | None = None) -> FloatVector:
    """Return the model that every site expects in round 1: it follows from the job's seed, and from its start if it has one."""
    return read_parameters(first_network(job, start), layout)


def check_first_model(job: Job, layout: Layout, received: FloatVector, start: Weights | None = None) -> None:
    """Refuse a job whose first model is not the one that its seed gives, up to rounding, and its start, exactly.

    Parameters that a coordinator crafts can make an update reveal patients. The check covers round 1 only: without the sums,
    a site cannot know what a later model should be.

    Args:
        start: the weights whose hash the job names.

    Raises:
        Refused: other parameters.
    """
    expected = first_model(job, layout, start)
    if start is not None:
        _check_started(job, layout, received, expected, start)
    if np.allclose(received, expected, rtol=RELATIVE, atol=ABSOLUTE):
        return
    largest = float(np.abs(received.astype(np.float64) - expected).max())
    raise Refused(
        f"The model of round 1 is not the one that the job's seed {job.job.seed} gives: parameters differ by up to "
        f"{largest:.2g}.",
        remedy=f"Use the same version of torch as the coordinator (here {torch.__version__}). If the versions are the same, the "
        "coordinator sends parameters other than the job's.",
    )


def _check_started(job: Job, layout: Layout, received: FloatVector, expected: FloatVector, start: Weights) -> None:
    taken = set(taken_by(job, first_network(job, start), start.lines))
    wanted = layout.unflatten(expected)
    for name, values in layout.unflatten(received).items():
        if name in taken and values.tobytes() != wanted[name].tobytes():  # bits: 0 and -0 are equal numbers
            raise Refused(
                f"The parameter {name!r} in the model of round 1 is not that of the start whose hash the job names.",
                remedy="The coordinator sends parameters other than the job's.",
            )


def check_imprint(job: Job, allowed: Sequence[str]) -> None:
    """Refuse a job without noise whose model has a wide layer directly on the raw input, see `privacy.imprint`.

    Args:
        allowed: names of models that this site's operator accepts nevertheless.

    Raises:
        Refused: such a model, or one that cannot be checked.
        JobError: a model that cannot be built.
    """
    if job.privacy.noised or job.task.model in allowed:
        return
    try:
        found = revealing_layers(job)
    except JobError:
        raise
    except Exception as problem:
        raise Refused(
            f"The model {job.task.model!r} cannot be checked for layers that reveal single samples "
            f"({type(problem).__name__}).",
            remedy=_remedy(job.task.model),
        ) from None
    if found:
        raise Refused(
            f"The model {job.task.model!r} has a wide layer directly on the input: {found[0]}. Without noise its update can "
            "reveal single patients' samples, even in a sum over many sites.",
            remedy=_remedy(job.task.model),
        )


def _remedy(model: str) -> str:
    return (
        "Use a job with noise, a convolutional model or fewer classes, or let the site's operator set "
        f'allow_imprint_models = ["{model}"] in policy.toml.'
    )
