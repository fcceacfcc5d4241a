"""A site's checks before it trains a job's model: it must be the one the job starts from, and must not reveal single samples."""

from collections.abc import Sequence

import numpy as np
import torch

from salus.common.errors import JobError, Refused
from salus.common.job import Job
from salus.common.models import build_model
from salus.common.vectors import FloatVector, Layout, read_parameters
from salus.privacy.records.architecture import revealing_layers

# Initial parameters are drawn by vectorised code, which rounds differently on other processors. Crafted ones are far off.
RELATIVE, ABSOLUTE = 1e-5, 1e-7


def first_model(job: Job, layout: Layout) -> FloatVector:
    """Return the model that every site expects in round 1.

    It follows from the job's seed. A job that starts from other parameters would have to name their hash; it would be
    checked here.
    """
    return read_parameters(build_model(job.task, job.job.seed), layout)


def check_first_model(job: Job, layout: Layout, received: FloatVector) -> None:
    """Refuse a job whose first model is not the one that its seed gives, up to rounding.

    Parameters that a coordinator crafts can make an update reveal patients. The check covers round 1 only: without the sums,
    a site cannot know what a later model should be.

    Raises:
        Refused: other parameters.
    """
    expected = first_model(job, layout)
    if np.allclose(received, expected, rtol=RELATIVE, atol=ABSOLUTE):
        return
    largest = float(np.abs(received.astype(np.float64) - expected).max())
    raise Refused(
        f"The model of round 1 is not the one that the job's seed {job.job.seed} gives: parameters differ by up to "
        f"{largest:.2g}.",
        remedy=f"Use the same version of torch as the coordinator (here {torch.__version__}). If the versions are the same, the "
        "coordinator sends parameters other than the job's.",
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
