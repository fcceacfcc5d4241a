"""What networks for masks of single objects share: the interface of what their outputs mean.

A network sees pictures ``[pictures, channels, rows, columns]`` and gives ``[pictures, ...]``; the tasks `instances` and
`tracking` ask the network's `ObjectMasks` for losses and objects.
"""

from collections.abc import Callable
from typing import Protocol

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.models import MODELS
from salus.common.optional_torch import torch

LEAST_PIXELS = 4  # smaller objects are noise
Build = Callable[[TaskSettings], torch.nn.Module]


class ObjectMasks(Protocol):
    """What the outputs of a network mean."""

    def losses(self, outputs: torch.Tensor, numbers: torch.Tensor, most: int) -> torch.Tensor:
        """Return each picture's loss, ``[pictures]``; that of picture i depends on picture i only.

        Args:
            outputs: of the network.
            numbers: the true objects, int64 ``[pictures, rows, columns]``, 0 for background, objects from 1 to `most`.
        """

    def objects(self, outputs: torch.Tensor, most: int, least_score: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return one picture's objects: numbers int64 ``[rows, columns]``, 0 for background, and each one's score from 1 on.

        Args:
            outputs: of the network, without their first dimension.
            most: objects at most; those with the best scores are kept.
            least_score: smallest score of an object, 0 .. 1.
        """


def with_masks(make: Callable[[TaskSettings], ObjectMasks]) -> Callable[[Build], Build]:
    """Declare what the outputs of the network that a function builds mean."""

    def declare(build: Build) -> Build:
        build.object_masks = make  # type: ignore[attr-defined]  # `masks_of` looks for it
        return build

    return declare


def masks_of(task: TaskSettings) -> ObjectMasks:
    """Return what the outputs of the job's network mean.

    Raises:
        JobError: a network that gives no masks of single objects.
    """
    build = MODELS.get(task.model, error=JobError)
    make = getattr(build, "object_masks", None)
    if make is None:
        boxes = ' For boxes write task.kind = "detection".' if hasattr(build, "detector") else ""
        raise JobError(
            f"The model {task.model!r} gives no masks of single objects, which the task {task.kind!r} needs.",
            remedy=f'Write model = "mask-rcnn" or "centres".{boxes}',
        )
    found: ObjectMasks = make(task)
    return found


def kept_objects(
    numbers: torch.Tensor, scores: torch.Tensor, least: torch.Tensor | int = LEAST_PIXELS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return objects and scores, in their order, without those of too few pixels.

    Args:
        numbers: int64 ``[rows, columns]``, 0 for background.
        scores: of the objects from 1 on.
        least: pixels that an object must have, or each of them.
    """
    areas = torch.bincount(numbers.flatten(), minlength=len(scores) + 1)[1:]
    kept = (areas >= least).nonzero().flatten()
    table = torch.zeros(len(scores) + 1, dtype=torch.int64)
    table[kept + 1] = torch.arange(1, len(kept) + 1)
    return table[numbers], scores[kept]
