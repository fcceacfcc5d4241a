"""What a job's network takes from its start, and the network with which the job begins."""

from collections.abc import Sequence

import numpy as np

from salus.common.errors import NoStart, StartError
from salus.common.job import Job, TaskSettings
from salus.common.job_start import Start
from salus.common.models import build_model, check_prefixes
from salus.common.models.lora import is_adapter
from salus.common.optional_torch import nn, torch
from salus.common.start.weights import Line, Weights
from salus.common.tensors import TensorSpec
from salus.common.vectors import Layout, layout_of, whole_layout

MOST_NAMED = 3
NEW = "List it under start.new if it shall begin anew, or start from a package of the same model."


def first_network(job: Job, weights: Weights | None) -> nn.Module:
    """Return the network with which a job begins: its start's weights, and what is new drawn from the job's seed.

    Args:
        weights: of the job's start; None for a job without one.

    Raises:
        NoStart: the job has a start and there are no weights.
        StartError: they do not fit its network.
        JobError: as `build_model`.
    """
    network = build_model(job.task, job.job.seed)
    if job.start is None:
        return network
    if weights is None:
        raise NoStart(
            f"The job starts from the package {job.start.package}, and it was not given.",
            remedy="Give it with --start.",
        )
    taken = taken_by(job, network, weights.lines)
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name in taken:
            parameters[name].copy_(torch.from_numpy(np.array(weights.tensors[name], dtype=np.float32)))
    return network


def specs_taken(job: Job) -> list[TensorSpec]:
    """Return the parameters that a job takes from its start, from the job alone; nothing is allocated."""
    with torch.device("meta"):
        network = build_model(job.task, job.job.seed)
    return [spec for spec in whole_layout(network).specs if spec.name in set(_names(job, network))]


def taken_by(job: Job, network: nn.Module, lines: Sequence[Line]) -> list[str]:
    """Return the names of the parameters that a job's network takes from its start, in the network's order.

    Args:
        lines: of the start.

    Raises:
        StartError: a parameter is missing in the start or has another shape, or the start has one that the network has not.
    """
    known = {line.name: line.shape for line in lines}
    names, parameters = _names(job, network), dict(network.named_parameters())
    start = _start(job)
    problems = [f"it has no parameter {name!r}" for name in names if name not in known]
    problems += [
        f"its {name!r} has shape {list(known[name])}, the job's {list(parameters[name].shape)}"
        for name in names
        if name in known and known[name] != tuple(parameters[name].shape)
    ]
    problems += [
        f"the job's model has no parameter {name[:80]!r}"
        for name in known
        if name not in parameters and not name.startswith(start.new or ("\0",))
    ]
    if problems:
        more = f", and {len(problems) - MOST_NAMED} more differences" if len(problems) > MOST_NAMED else ""
        raise StartError(
            f"The start does not fit the job's model {job.task.model!r}: {'; '.join(problems[:MOST_NAMED])}{more}.",
            remedy=NEW,
        )
    return names


def check_new(task: TaskSettings, start: Start, network: nn.Module) -> None:
    """Check that ``start.new`` names parameters, and that all of them are trained.

    Raises:
        JobError: a prefix with which no parameter's name begins.
        StartError: a part that is new and frozen would stay random.
    """
    check_prefixes(network, start.new, task, "start.new")
    for name, parameter in network.named_parameters():
        if name.startswith(start.new or ("\0",)) and not parameter.requires_grad:
            raise StartError(
                f"The parameter {name!r} is new and not trained, so it would stay random.",
                remedy=f"Train it, too (task.trainable, task.frozen), or let start.new list less than {_listed(start, name)!r}.",
            )


def _listed(start: Start, name: str) -> str:
    return next(prefix for prefix in start.new if name.startswith(prefix))


def stored_layout(job: Job, network: nn.Module) -> Layout:
    """Return the parameters that a job's model files hold: the trained ones, and with a start all, so that they are complete."""
    return layout_of(network) if job.start is None else whole_layout(network)


def _start(job: Job) -> Start:
    assert job.start is not None  # Safe because callers have jobs with a start.
    return job.start


def _names(job: Job, network: nn.Module) -> list[str]:
    start = _start(job)
    check_new(job.task, start, network)
    names = (name for name, _ in network.named_parameters())
    return [name for name in names if not is_adapter(name) and not name.startswith(start.new or ("\0",))]
