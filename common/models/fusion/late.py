"""Late fusion: each modality is classified by itself, and the logits of those that are there are averaged."""

from salus.common.job import TaskSettings
from salus.common.models.fusion.encoders import Encoders, FusionModelSettings, mean_of_present
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings


class Late(nn.Module):
    """The network."""

    def __init__(self, task: TaskSettings, width: int) -> None:
        super().__init__()
        self.encoders = Encoders(task, width)
        self.heads = nn.ModuleList(nn.Linear(width, len(task.classes)) for _ in self.encoders.names)

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        """Return logits ``[items, classes]``."""
        vectors, there = self.encoders(given)
        logits = torch.stack([head(vectors[:, place]) for place, head in enumerate(self.heads)], dim=1)
        return mean_of_present(logits, there)  # a mean does not grow with the number of modalities, as a sum would


@with_settings(FusionModelSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network; raises JobError for another kind of task."""
    return Late(task, settings_of(task, FusionModelSettings).feature_width)
