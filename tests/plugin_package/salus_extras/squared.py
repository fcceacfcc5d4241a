"""A loss: the mean squared error of the probabilities."""

import torch

from salus.common.job import TaskSettings
from salus.common.losses.base import compared
from salus.common.strict import Strict


class SquaredSettings(Strict):
    """Settings of `squared`.

    Args:
        count_background: Whether the background counts as a structure.
    """

    count_background: bool = True


class Squared:
    """The squared error of each item by itself."""

    Settings = SquaredSettings

    def __init__(self, settings: TaskSettings) -> None:
        self._background = isinstance(settings, SquaredSettings) and settings.count_background

    def __call__(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        chances, truth = compared(logits, wanted, self._background)
        found: torch.Tensor = ((chances - truth) ** 2).mean(dim=(1, 2))
        return found
