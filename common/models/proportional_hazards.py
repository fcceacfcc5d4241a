"""A linear risk and one baseline for each interval of time: the discrete form of Cox's proportional hazards, for survival.

The logit of interval k is ``baseline[k] + w x`` (Cox 1972, section 6: proportional odds of the hazards).
"""

import math

from salus.common.job import TaskSettings
from salus.common.optional_torch import nn, torch

FIRST_HAZARD = 0.05  # of every interval before training; zero would begin at one half


class ProportionalHazards(nn.Module):
    """The network."""

    def __init__(self, features: int, intervals: int) -> None:
        super().__init__()
        self.risk = nn.Linear(features, 1, bias=False)
        self.baseline = nn.Embedding(intervals, 1)  # a table, so that the clipping engine knows it
        nn.init.zeros_(self.risk.weight)
        nn.init.constant_(self.baseline.weight, math.log(FIRST_HAZARD / (1 - FIRST_HAZARD)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``[items, intervals]``."""
        places = torch.arange(self.baseline.num_embeddings, device=x.device).expand(len(x), -1)
        found: torch.Tensor = self.risk(x.flatten(1)) + self.baseline(places)[..., 0]
        return found


def build(task: TaskSettings) -> nn.Module:
    """Return the network; its parameters start at fixed values, so the seed has no effect."""
    from salus.common.models import input_features

    return ProportionalHazards(input_features(task), len(task.classes))
