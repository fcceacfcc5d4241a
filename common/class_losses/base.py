"""The interface of a loss of class labels, and what the losses share.

Labels are one class of each item, int64 ``[items]`` (the classes compete, softmax), or a yes or no for each class, int64
``[items, classes]`` (sigmoid).
"""

from collections.abc import Sequence
from typing import Annotated, Protocol

from pydantic import Field

from salus.common.errors import JobError
from salus.common.job_sections import TaskSettings
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import torch

Count = Annotated[float, Field(gt=0, le=1e12)]


class ClassLoss(Protocol):
    """A loss of single items, built from the settings of a job.

    Guarantee that every implementation must give: the loss of item i depends on item i alone; class counts and weights are
    constants of the job. `SiteCalibrated`, which reads the site's counts, is refused with noise.
    """

    def __init__(self, settings: TaskSettings) -> None:
        """Keep what the loss needs of the job's settings."""

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
        """Return one loss for each item, ``[items]``.

        Args:
            logits: floating point ``[items, classes]``.
            labels: int64, see the module.
            counts: the site's training items of each class ``[items, classes]``, the same in each row; None if unknown.
        """


def weights_of(settings: TaskSettings) -> torch.Tensor:
    """Return the job's factor for each class, float32 ``[classes]``; 1 where the job has none."""
    return torch.tensor(getattr(settings, "class_weights", ()) or (1.0,) * len(settings.classes))


def one_for_each_class(values: Sequence[float], settings: TaskSettings, key: str) -> torch.Tensor:
    """Return constants of the classes as float64 ``[classes]``; raises JobError unless there is one for each class."""
    if len(values) != len(settings.classes):
        raise JobError(
            f"Expected {len(settings.classes)} numbers in task.{key}, one for each class, got {len(values)}.",
            remedy="Take them from protected counts over all sites: `salus stats --weights` writes them.",
        )
    return torch.tensor(values, dtype=torch.float64)


def log_of_truth(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of the true class ``[items]``, or of each yes or no ``[items, classes]``."""
    if labels.dim() == 1:
        return -F.cross_entropy(logits, labels, reduction="none")
    return -F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none")


def weighted(losses: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return each item's loss ``[items]``: times its class's weight, or the mean over classes, present ones weighted.

    Args:
        losses: of the shape of `labels`.
        weights: ``[classes]``.
    """
    weights = weights.to(losses)
    if labels.dim() == 1:
        return losses * weights[labels]
    return torch.where(labels > 0, losses * weights, losses).mean(dim=1)
