"""Early fusion: the features of all modalities side by side, with which of them are there, into one network."""

from salus.common.job import TaskSettings
from salus.common.models.fusion.encoders import Encoders, FusionModelSettings
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings


class Early(nn.Module):
    """The network."""

    def __init__(self, task: TaskSettings, width: int) -> None:
        super().__init__()
        self.encoders = Encoders(task, width)
        count = len(self.encoders.names)
        self.head = nn.Sequential(nn.Linear(count * (width + 1), width), nn.ReLU(), nn.Linear(width, len(task.classes)))

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        """Return logits ``[items, classes]``."""
        vectors, there = self.encoders(given)
        found: torch.Tensor = self.head(torch.cat([vectors.flatten(1), there], dim=1))
        return found


@with_settings(FusionModelSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network; raises JobError for another kind of task."""
    return Early(task, settings_of(task, FusionModelSettings).feature_width)
