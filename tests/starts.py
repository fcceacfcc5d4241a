"""A start for tests: the weights of a tiny network, and jobs that begin with them."""

import torch
from tests.builders import job_text

from salus.common.job import Job, parse_job
from salus.common.models import build_model
from salus.common.start.weights import Weights, weights_of

PACKAGE = "sha256:" + "ab" * 32
HEAD = "12."  # the last layer of the network `cnn`


def trained_weights(seed: int = 7, classes: str = '["no", "yes"]', first: float | None = None) -> Weights:
    """Return weights as a finished job of the network `cnn` would have them.

    Args:
        first: the very first number.
    """
    job = parse_job(job_text(model="cnn").replace('["no", "yes"]', classes))
    network, draw = build_model(job.task, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.05)
        if first is not None:
            next(network.parameters()).view(-1)[0] = first
    return weights_of(network)


def started_text(
    weights: Weights,
    *,
    task: str = f'trainable = ["{HEAD}"]',
    new: str = f'["{HEAD}"]',
    start: str = "",
    **changes: object,
) -> str:
    """Return the text of a tiny job that starts from these weights.

    Args:
        task: further lines of the section task.
        start: replaces the hash of the weights.
    """
    text = job_text(model="cnn", **changes).replace("shape = [8, 8]", f"shape = [8, 8]\n{task}")  # type: ignore[arg-type]
    return f'{text}[start]\npackage = "{PACKAGE}"\nweights = "{start or weights.digest}"\nnew = {new}\n'


def started_job(weights: Weights, **changes: object) -> Job:
    """Return such a job; keywords as in `started_text`."""
    return parse_job(started_text(weights, **changes))  # type: ignore[arg-type]
