"""Focal loss (Lin et al. 2017, arXiv 1708.02002): voxels that are already right hardly count."""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.losses.base import WeightSettings, checked_weights, log_probability_of_truth, voxel_mean
from salus.common.optional_torch import torch
from salus.common.registry import settings_of


class FocalSettings(WeightSettings):
    """Settings of the focal loss.

    Args:
        focal_gamma: Exponent of the probability of error that scales a voxel's cross-entropy; 0 is plain cross-entropy.
    """

    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 2.0  # the best of the paper


class Focal:
    """The mean over an item's voxels of ``-(1 - p)^gamma log p``, where p is the probability of the truth."""

    Settings = FocalSettings

    def __init__(self, settings: TaskSettings) -> None:
        self._own = settings_of(settings, FocalSettings)
        self._weights = checked_weights(self._own.class_weights, settings)

    def __call__(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """See `Loss`."""
        log_p = log_probability_of_truth(logits, wanted)
        # The smallest step above 0 keeps the derivative of the power finite where p is 1 and gamma is below 1.
        error = (1 - log_p.exp()).clamp(min=torch.finfo(log_p.dtype).eps)
        return voxel_mean(-(error**self._own.focal_gamma) * log_p, logits, wanted, self._weights)
