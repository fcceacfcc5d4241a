"""Memory that a job needs, from its public settings alone: computed before anything is built, reserved or read.

A job file of a few hundred bytes can request a network or a histogram that exceeds any machine's memory. Therefore the
network is first built on torch's "meta" device, which knows shapes and allocates nothing, and one sample is passed through.

The figures estimate the peak and are not a bound. They count what grows with the job (parameters, activations, cells), but
not the interpreter with its libraries, about half a gigabyte, and not the cache of samples, which has its own limit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from salus.common.batch import empty_batch
from salus.common.errors import JobError, SalusError
from salus.common.job import Job, TaskSettings
from salus.common.machine import MEBIBYTE
from salus.common.models import MODELS, input_features, prepare
from salus.common.optional_torch import torch
from salus.common.subgroups import groups_of
from salus.common.sums import sums_of
from salus.common.sums.base import cells_of
from salus.common.tasks import make_task

BYTES_PER_PARAMETER = 80  # weights, gradients, two moments, the update and its protected form in double precision
BYTES_PER_FROZEN = (
    24  # weights, those of the start as received and as decoded, and copies in both precisions for the checks
)
BYTES_PER_ACTIVATION = 12  # forward in single precision, backward, and a temporary copy
BYTES_PER_PRIVATE_ACTIVATION = 32  # also in double precision, for norms that do not depend on other patients
BYTES_PER_CELL = 64
MOST_PRIVATE_ROWS = 64
UNKNOWN_ACTIVATIONS = 64  # per input value, for a network whose activations cannot be counted on the meta device


@dataclass(frozen=True)
class Cost:
    """The memory that one site needs for a job.

    Args:
        parameters: trained parameters of the network; 0 for statistics.
        activations: values computed from one sample in the network, including the sample itself; if it is more, those of the
            largest tensor of its loss.
        cells: entries of one vector of statistics.
        memory_bytes: estimated peak memory.
    """

    parameters: int
    activations: int
    cells: int
    memory_bytes: int


@runtime_checkable
class Scoring(Protocol):
    """A task that computes something large of each model by itself, such as the images that score it."""

    def score_bytes(self, activations: int) -> int:
        """Return the memory that this takes."""


def cost_of(job: Job) -> Cost:
    """Return what `job` costs a site.

    Raises:
        JobError: unknown names, or settings that the network does not support.
    """
    if job.statistics is not None:
        sums = sums_of(job)
        cells = max(cells_of(sums, step) for step in range(1, sums.steps + 1))
        image = math.prod(job.task.shape) * job.task.channels if job.task.shape else 0
        patients = job.aggregation.max_patients  # one flag for each patient and cell
        return Cost(0, image, cells, cells * (BYTES_PER_CELL + patients) + 16 * image)
    parameters, frozen, activations = _measured(job.task)
    task = make_task(job.task)
    cells = task.statistics_size * (1 + groups_of(job).count)
    each = BYTES_PER_PRIVATE_ACTIVATION if job.privacy.noised else BYTES_PER_ACTIVATION
    # With noise, a pass takes only as many rows as are efficient, whatever the batch size; see `private_training`.
    batch = min(job.training.batch_size, MOST_PRIVATE_ROWS) if job.privacy.noised else job.training.batch_size
    batch *= job.task.copies
    passes = each * activations * batch
    if isinstance(task, Scoring):  # between rounds, so the two do not add up
        passes = max(passes, task.score_bytes(activations))
    memory = BYTES_PER_PARAMETER * parameters + BYTES_PER_FROZEN * frozen + passes + BYTES_PER_CELL * cells
    return Cost(parameters, activations, cells, memory)


def check_cost(job: Job, limit_bytes: int, refuse: Callable[[str, str], SalusError]) -> Cost:
    """Return a job's cost; above the limit, raise the error that `refuse` creates from the problem and its remedy."""
    cost = cost_of(job)
    if cost.memory_bytes > limit_bytes:
        raise refuse(
            f"The job needs about {megabytes(cost.memory_bytes)} MB of memory "
            f"({cost.parameters:,} parameters, {cost.activations:,} activations per sample, {cost.cells:,} cells), "
            f"more than the limit of {megabytes(limit_bytes)} MB.",
            "Choose a smaller shape, model or batch_size.",
        )
    return cost


def megabytes(size_bytes: int) -> str:
    """Return a size in MiB as text, rounded up."""
    return f"{-(-size_bytes // MEBIBYTE):,}"


def _measured(settings: TaskSettings) -> tuple[int, int, int]:
    """Return the number of trained and frozen parameters and of activations per sample; nothing is allocated."""
    task, build = make_task(settings), MODELS.get(settings.model, error=JobError)
    # An item may be made of several images.
    features = max(input_features(settings), sum(math.prod(field.shape) for field in task.spec.values()))
    try:
        with torch.device("meta"):
            model: torch.nn.Module = build(settings)
    except (ValueError, RuntimeError):
        raise JobError(
            f"The model {settings.model!r} cannot be built for shape {list(settings.shape)}.",
            remedy="Choose another shape.",
        ) from None
    prepare(model, settings)
    every = list(model.parameters())
    parameters = sum(parameter.numel() for parameter in every if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in every) - parameters
    if any(parameter.device.type != "meta" for parameter in every):
        return parameters, frozen, UNKNOWN_ACTIVATIONS * features
    numbers = [features]

    def count(layer: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            numbers.append(output.numel())

    for layer in model.modules():
        if not list(layer.children()):
            layer.register_forward_hook(count)
    try:
        with torch.no_grad(), torch.device("meta"), _Largest() as largest:  # type: ignore[no-untyped-call]
            model.eval()
            batch = empty_batch(task.spec, 1)
            for step in task.steps:
                task.losses(model, batch, step)
    except (ValueError, RuntimeError, NotImplementedError):
        # A site's own model may use operations without meta tensors.
        return parameters, frozen, UNKNOWN_ACTIVATIONS * features
    # A loss may be far larger than its network, such as that of a detector: places times objects times classes.
    return parameters, frozen, max(sum(numbers), largest.numbers)


class _Largest(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes how many numbers the largest tensor has that is computed meanwhile."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for output in outputs if isinstance(outputs, tuple | list) else (outputs,):
            if isinstance(output, torch.Tensor):
                stored = output.untyped_storage().nbytes() // output.element_size()  # fewer where numbers are shared
                self.numbers = max(self.numbers, min(output.numel(), stored))
        return outputs
