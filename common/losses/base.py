"""The interface of a loss, and what the losses share.

A network gives one output channel for each structure and, where every voxel belongs to at most one of several structures, a
channel for the background before them. With a background the channels compete (softmax); without, each is a yes or no of its
own (sigmoid): one structure alone, or structures that may overlap.
"""

from typing import Annotated, ClassVar, Protocol

from pydantic import Field

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import torch
from salus.common.strict import Strict

Weight = Annotated[float, Field(ge=0, le=1e6)]


class Loss(Protocol):
    """A loss of single items, built from the settings of a job.

    Guarantee that every implementation must give: the loss of item i depends on item i alone, also through `class_weights`,
    which are constants of the job. Otherwise one patient's gradient would depend on another patient.
    """

    Settings: ClassVar[type[Strict]]

    def __init__(self, settings: TaskSettings) -> None:
        """Keep what the loss needs of the job's settings."""

    def __call__(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Return one loss for each item, ``[items]``.

        Args:
            logits: floating point ``[items, channels, *spatial]``; channels are the structures, or the background and then the
                structures.
            wanted: the true masks, ``[items, structures, *spatial]``, each 0 or 1, of the same dtype.
        """


class WeightSettings(Strict):
    """Weights of the classes.

    Args:
        class_weights: Weights of the background and of each structure, in this order; empty weighs all alike. Use constants
            or protected counts of all sites, never the counts of one site.
    """

    class_weights: tuple[Weight, ...] = ()  # equal weights assume nothing about the structures' sizes


class OverlapSettings(WeightSettings):
    """Settings of losses that compare overlaps.

    Args:
        smooth: Number of voxels that is added to numerator and denominator, so that an absent structure has a defined loss.
        include_background: Whether the background counts as a structure; without effect on one structure or overlapping ones.
    """

    smooth: Annotated[float, Field(gt=0, le=1e6)] = 1.0  # one voxel: small beside any structure, yet never 0 / 0
    include_background: bool = False  # the background fills most of an image and would hide the structures


def checked_weights(weights: tuple[float, ...], settings: TaskSettings) -> tuple[float, ...]:
    """Return the weights of the background and of each structure, or nothing for equal weights.

    Raises:
        JobError: another number of weights, or only zeros.
    """
    count = len(settings.classes) + 1
    if weights and (len(weights) != count or not any(weights[1:])):
        raise JobError(
            f"Expected {count} numbers in task.class_weights, not all zero: the background and {count - 1} structure(s).",
            remedy="Give one weight for the background and one for each name in task.classes.",
        )
    return weights


def competes(logits: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Return whether the outputs have a background channel, so that the channels exclude each other."""
    return logits.shape[1] == wanted.shape[1] + 1


def with_background(wanted: torch.Tensor) -> torch.Tensor:
    """Return the true masks with one for the background in front: ``[items, 1 + structures, *spatial]``."""
    return torch.cat([1 - wanted.sum(dim=1, keepdim=True), wanted], dim=1)


def probabilities(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the probability of each channel, of the shape of `logits`."""
    return logits.softmax(dim=1) if competes(logits, wanted) else logits.sigmoid()


def compared(logits: torch.Tensor, wanted: torch.Tensor, background: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probabilities and truth of the classes to compare, both flat: ``[items, classes, voxels]``.

    Args:
        background: whether the background is one of them, where there is one.
    """
    chances = probabilities(logits, wanted)
    if competes(logits, wanted):
        if background:
            wanted = with_background(wanted)
        else:
            chances = chances[:, 1:]
    return chances.flatten(2), wanted.flatten(2)


def weighted_mean(values: torch.Tensor, weights: tuple[float, ...]) -> torch.Tensor:
    """Return the mean over classes, ``[items, classes]`` to ``[items]``; the weights are those of the last classes."""
    if not weights:
        return values.mean(dim=1)
    share = values.new_tensor(weights[-values.shape[1] :])
    return values @ (share / share.sum())


def voxel_weights(wanted: torch.Tensor, weights: tuple[float, ...], background: bool) -> torch.Tensor:
    """Return the weight of each voxel's own class, ``[items, 1, *spatial]`` with a background, else one for each structure.

    Without a background a voxel has a structure's weight inside it, and the background's weight outside.
    """
    if not background:
        inside = wanted.new_tensor(weights[1:]).reshape(1, -1, *[1] * (wanted.dim() - 2))
        return torch.where(wanted > 0.5, inside, wanted.new_tensor(weights[0]))
    each = wanted.new_tensor(weights).reshape(1, -1, *[1] * (wanted.dim() - 2))
    return (with_background(wanted) * each).sum(dim=1, keepdim=True)


def log_probability_of_truth(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities of the truth: ``[items, 1, *spatial]`` with a background, else one for each structure."""
    if competes(logits, wanted):
        return (logits.log_softmax(dim=1) * with_background(wanted)).sum(dim=1, keepdim=True)
    return -F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def voxel_mean(
    values: torch.Tensor, logits: torch.Tensor, wanted: torch.Tensor, weights: tuple[float, ...]
) -> torch.Tensor:
    """Return each item's weighted mean of `values`, which have the shape of `log_probability_of_truth`.

    An item whose voxels all have the weight 0 has the loss 0.
    """
    if not weights:
        return values.flatten(1).mean(dim=1)
    shares = voxel_weights(wanted, weights, competes(logits, wanted)).flatten(1)
    total = shares.sum(dim=1)
    return (values.flatten(1) * shares).sum(dim=1) / torch.where(total > 0, total, torch.ones_like(total))
