"""Dice and cross-entropy together (Isensee et al. 2021, nnU-Net, doi 10.1038/s41592-020-01008-z)."""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.losses.cross_entropy import CrossEntropy, CrossEntropySettings
from salus.common.losses.dice import Dice, DiceSettings
from salus.common.optional_torch import torch
from salus.common.registry import settings_of


class DiceCrossEntropySettings(DiceSettings, CrossEntropySettings):
    """Settings of the sum of Dice and cross-entropy.

    Args:
        dice_share: Weight of the Dice loss; the cross-entropy has the rest.
    """

    dice_share: Annotated[float, Field(ge=0, le=1)] = 0.5  # equal parts, as in nnU-Net


class DiceCrossEntropy:
    """A weighted mean of the Dice loss and the cross-entropy of each item."""

    Settings = DiceCrossEntropySettings

    def __init__(self, settings: TaskSettings) -> None:
        self._share = settings_of(settings, DiceCrossEntropySettings).dice_share
        self._dice, self._cross_entropy = Dice(settings), CrossEntropy(settings)

    def __call__(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """See `Loss`."""
        return self._share * self._dice(logits, wanted) + (1 - self._share) * self._cross_entropy(logits, wanted)
