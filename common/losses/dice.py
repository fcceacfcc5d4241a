"""Soft Dice (Milletari et al. 2016, arXiv 1606.04797; here with plain sums in the denominator, as in MONAI's DiceLoss)."""

from salus.common.job import TaskSettings
from salus.common.losses.base import OverlapSettings, checked_weights, compared, weighted_mean
from salus.common.optional_torch import torch
from salus.common.registry import settings_of


class DiceSettings(OverlapSettings):
    """Settings of the Dice loss."""


class Dice:
    """One minus the soft Dice coefficient, a mean over structures; for each item by itself, never over a batch."""

    Settings = DiceSettings

    def __init__(self, settings: TaskSettings) -> None:
        self._own = settings_of(settings, DiceSettings)
        self._weights = checked_weights(self._own.class_weights, settings)

    def __call__(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """See `Loss`."""
        chances, truth = compared(logits, wanted, self._own.include_background)
        common = (chances * truth).sum(dim=2)
        sizes = chances.sum(dim=2) + truth.sum(dim=2)
        return weighted_mean(1 - (2 * common + self._own.smooth) / (sizes + self._own.smooth), self._weights)
