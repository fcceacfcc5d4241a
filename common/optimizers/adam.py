"""Adam (Kingma and Ba 2015, arXiv 1412.6980), with torch's default moments."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from salus.common.job import Training

if TYPE_CHECKING:
    import torch


def build(parameters: Iterable["torch.nn.Parameter"], training: Training) -> "torch.optim.Optimizer":
    """Return the optimizer; it has no settings of its own."""
    import torch

    return torch.optim.Adam(parameters, training.learning_rate, weight_decay=training.weight_decay)
