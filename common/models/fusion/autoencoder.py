"""A multimodal autoencoder: one description of what is there, from which every modality is rebuilt and the class is told.

Because each modality is rebuilt from the mean of those that are there, a description does not change its meaning with what is
missing (after Wu and Goodman 2018, arXiv 1802.05335, without their variational part).
"""

from salus.common.job import TaskSettings
from salus.common.models.fusion.encoders import Encoders, FusionModelSettings, check_task, mean_of_present
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings
from salus.common.tasks.encoding import row_width

IMAGE_SIDE, VOLUME_SIDE = 8, 4  # of the rebuilt image, which is compared with the averaged one


class Autoencoder(nn.Module):
    """The network."""

    def __init__(self, task: TaskSettings, width: int) -> None:
        super().__init__()
        self.encoders = Encoders(task, width)
        self.shared = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, len(task.classes))
        side = IMAGE_SIDE if len(task.shape) == 2 else VOLUME_SIDE
        self.sides = (task.channels, *(min(side, size) for size in task.shape))
        sizes = {
            "image": torch.Size(self.sides).numel(),
            "row": row_width(task.columns),
            "text": check_task(task).vocabulary,
        }
        self.decoders = nn.ModuleDict({name: nn.Linear(width, sizes[name]) for name in self.encoders.names})

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return logits ``[items, classes]`` and each rebuilt modality, as `tasks.fusion.targets_of` compares it."""
        vectors, there = self.encoders(given)
        described = self.shared(mean_of_present(vectors, there))
        rebuilt = {name: decoder(described) for name, decoder in self.decoders.items()}
        if "image" in rebuilt:
            rebuilt["image"] = rebuilt["image"].unflatten(1, self.sides)
        if "text" in rebuilt:
            rebuilt["text"] = torch.sigmoid(rebuilt["text"])
        return self.head(described), rebuilt


@with_settings(FusionModelSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network; raises JobError for another kind of task."""
    return Autoencoder(task, settings_of(task, FusionModelSettings).feature_width)
