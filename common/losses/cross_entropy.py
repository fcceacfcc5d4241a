"""Cross-entropy of voxels: softmax with a background channel, otherwise one binary cross-entropy for each structure."""

from salus.common.job import TaskSettings
from salus.common.losses.base import WeightSettings, checked_weights, log_probability_of_truth, voxel_mean
from salus.common.optional_torch import torch
from salus.common.registry import settings_of


class CrossEntropySettings(WeightSettings):
    """Settings of the cross-entropy."""


class CrossEntropy:
    """The mean over an item's voxels of minus the log-probability of the truth, weighted by the voxels' own classes."""

    Settings = CrossEntropySettings

    def __init__(self, settings: TaskSettings) -> None:
        self._weights = checked_weights(settings_of(settings, CrossEntropySettings).class_weights, settings)

    def __call__(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """See `Loss`."""
        return voxel_mean(-log_probability_of_truth(logits, wanted), logits, wanted, self._weights)
