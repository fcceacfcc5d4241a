"""Tversky loss (Salehi et al. 2017, arXiv 1706.05721): false positives and false negatives cost differently."""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.losses.base import OverlapSettings, checked_weights, compared, weighted_mean
from salus.common.optional_torch import torch
from salus.common.registry import settings_of


class TverskySettings(OverlapSettings):
    """Settings of the Tversky loss.

    Args:
        false_positive_weight: Weight of voxels that are marked by mistake.
        false_negative_weight: Weight of voxels that are missed. Both 0.5 is the Dice loss.
    """

    false_positive_weight: Annotated[float, Field(gt=0, le=10)] = (
        0.3  # the best of the paper, with 0.7 for missed voxels
    )
    false_negative_weight: Annotated[float, Field(gt=0, le=10)] = 0.7


class Tversky:
    """One minus the Tversky index, a mean over structures of each item."""

    Settings = TverskySettings

    def __init__(self, settings: TaskSettings) -> None:
        self._own = settings_of(settings, TverskySettings)
        self._weights = checked_weights(self._own.class_weights, settings)

    def __call__(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """See `Loss`."""
        own = self._own
        chances, truth = compared(logits, wanted, own.include_background)
        common = (chances * truth).sum(dim=2)
        extra, missed = chances.sum(dim=2) - common, truth.sum(dim=2) - common
        below = common + own.false_positive_weight * extra + own.false_negative_weight * missed
        return weighted_mean(1 - (common + own.smooth) / (below + own.smooth), self._weights)
