"""Focal loss (Lin et al. 2017, arXiv 1708.02002): items that are already right hardly count."""

from typing import Annotated

from pydantic import Field

from salus.common.class_losses.base import log_of_truth, weighted, weights_of
from salus.common.job_sections import TaskSettings
from salus.common.optional_torch import torch
from salus.common.registry import settings_of
from salus.common.strict import Strict


class FocalSettings(Strict):
    """Settings of the focal loss.

    Args:
        focusing: Exponent of the probability of error that scales an item's cross-entropy; 0 is plain cross-entropy.
    """

    focusing: Annotated[float, Field(ge=0, le=10)] = 2.0  # the best of the paper


class Focal:
    """``-(1 - p)^focusing log p``, where p is the probability of the truth."""

    Settings = FocalSettings

    def __init__(self, settings: TaskSettings) -> None:
        self._own, self._weights = settings_of(settings, FocalSettings), weights_of(settings)

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
        """See `ClassLoss`."""
        log_p = log_of_truth(logits, labels)
        # The smallest step above 0 keeps the derivative of the power finite where p is 1 and the exponent is below 1.
        error = (1 - log_p.exp()).clamp(min=torch.finfo(log_p.dtype).eps)
        return weighted(-(error**self._own.focusing) * log_p, labels, self._weights)
