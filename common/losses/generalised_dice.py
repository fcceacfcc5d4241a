"""Generalised Dice (Sudre et al. 2017, arXiv 1707.03237): each structure counts by the inverse of its squared volume."""

from salus.common.job import TaskSettings
from salus.common.losses.base import OverlapSettings, checked_weights, compared
from salus.common.optional_torch import torch
from salus.common.registry import settings_of


class GeneralisedDiceSettings(OverlapSettings):
    """Settings of the generalised Dice loss."""


class GeneralisedDice:
    """One minus the generalised Dice coefficient of each item.

    A structure that is absent from an item counts as if it had one voxel.
    """

    Settings = GeneralisedDiceSettings

    def __init__(self, settings: TaskSettings) -> None:
        self._own = settings_of(settings, GeneralisedDiceSettings)
        self._weights = checked_weights(self._own.class_weights, settings)

    def __call__(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """See `Loss`."""
        chances, truth = compared(logits, wanted, self._own.include_background)
        volumes = truth.sum(dim=2)
        shares = volumes.clamp(min=1) ** -2
        if self._weights:
            shares = shares * shares.new_tensor(self._weights[-shares.shape[1] :])
        shares = shares / shares.sum(dim=1, keepdim=True)
        common = (shares * (chances * truth).sum(dim=2)).sum(dim=1)
        sizes = (shares * (chances.sum(dim=2) + volumes)).sum(dim=1)
        return 1 - (2 * common + self._own.smooth) / (sizes + self._own.smooth)
