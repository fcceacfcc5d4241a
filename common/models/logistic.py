"""Logistic regression: one linear layer from the features to the classes."""

from salus.common.job import TaskSettings
from salus.common.optional_torch import nn


def build(task: TaskSettings) -> nn.Module:
    """Return the network; its parameters start at zero, as usual, so the seed has no effect."""
    from salus.common.models import input_features

    linear = nn.Linear(input_features(task), len(task.classes))
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.Flatten(), linear)
