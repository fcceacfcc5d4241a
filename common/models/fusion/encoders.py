"""What all networks for fusion share: one small encoder for each modality, and their order.

A network is called with the tensors of `tasks.fusion.inputs_of`: each modality, and behind it which of its parts are there.
What is absent is multiplied by zero right after its encoder, so it reaches nothing and gets no gradient.
"""

import itertools
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.models.blocks import halvings, normalised
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of
from salus.common.strict import Strict
from salus.common.tasks.encoding import row_width
from salus.common.tasks.fusion import FusionSettings

MOST_HALVINGS = 3


class FusionModelSettings(Strict):
    """Settings of the networks for fusion.

    Args:
        feature_width: Numbers by which each modality is described.
    """

    feature_width: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 32


def check_task(task: TaskSettings) -> FusionSettings:
    """Return the settings of a fusion; raises JobError for another kind of task."""
    if not isinstance(task, FusionSettings):
        raise JobError(
            f"The model {task.model!r} takes an image, a row and a text, and the task {task.kind!r} gives it one of them.",
            remedy='Use it with task.kind = "fusion", or choose another model.',
        )
    return settings_of(task, FusionSettings)


class ImageMap(nn.Module):
    """``[items, channels, *shape]`` to a map of features ``[items, width, *smaller]``."""

    def __init__(self, task: TaskSettings, width: int) -> None:
        super().__init__()
        spatial = len(task.shape)
        self.pool = nn.MaxPool2d(2) if spatial == 2 else nn.MaxPool3d(2)
        self.halvings = halvings(task, MOST_HALVINGS)
        widths = [task.channels, *[max(8, width // 2)] * (MOST_HALVINGS - 1), width]
        pairs = itertools.pairwise(widths)
        self.layers = nn.ModuleList(normalised(spatial, before, after, 3) for before, after in pairs)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the map."""
        for place, layer in enumerate(self.layers):
            image = layer(image)
            if place < self.halvings:
                image = self.pool(image)
        return image


class Encoders(nn.Module):
    """Each modality as a vector, zero where it is absent."""

    def __init__(self, task: TaskSettings, width: int) -> None:
        super().__init__()
        own = check_task(task)
        self.names = tuple(own.modalities_in_order)
        if "image" in self.names:
            self.image = ImageMap(task, width)
            self.image_norm = nn.LayerNorm(width)
        if "row" in self.names:
            self.row = nn.Sequential(nn.Linear(row_width(task.columns), width), nn.ReLU(), nn.Linear(width, width))
            self.row_norm = nn.LayerNorm(width)
        if "text" in self.names:
            self.text = nn.Embedding(own.vocabulary, width)
            self.text_norm = nn.LayerNorm(width)

    def forward(self, given: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the vectors ``[items, modalities, width]`` and which are there, ``[items, modalities]``."""
        vectors, there = [], []
        for name, values, marks in by_modality(self.names, given):
            if name == "image":
                found = self.image_norm(self.image(values).flatten(2).mean(dim=2))
            elif name == "row":
                found = self.row_norm(self.row(values))
            else:
                words = self.text(values) * marks[..., None]
                found = self.text_norm(words.sum(dim=1) / marks.sum(dim=1, keepdim=True).clamp(min=1))
            present = (marks.sum(dim=1) > 0).to(found)
            vectors.append(found * present[:, None])
            there.append(present)
        return torch.stack(vectors, dim=1), torch.stack(there, dim=1)


def by_modality(
    names: Sequence[str], given: Sequence[torch.Tensor]
) -> Sequence[tuple[str, torch.Tensor, torch.Tensor]]:
    """Return each modality's name, its tensor and its marks of what is there."""
    return [(name, given[2 * place], given[2 * place + 1]) for place, name in enumerate(names)]


def mean_of_present(vectors: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Return the mean over the modalities that are there, ``[items, width]``.

    Args:
        vectors: ``[items, modalities, width]``.
        there: ``[items, modalities]``.
    """
    return (vectors * there[..., None]).sum(dim=1) / there.sum(dim=1, keepdim=True).clamp(min=1)


def pooled(values: torch.Tensor, side: int) -> torch.Tensor:
    """Return a map averaged to at most `side` along each side."""
    sides: Any = [min(side, size) for size in values.shape[2:]]
    return F.adaptive_avg_pool2d(values, sides) if values.dim() == 4 else F.adaptive_avg_pool3d(values, sides)
