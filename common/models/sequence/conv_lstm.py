"""ConvLSTM (Shi et al. 2015, arXiv 1506.04214), without its peephole connections: an LSTM whose state is a map."""

from typing import Annotated

from pydantic import Field

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.models.blocks import convolution, normalised
from salus.common.models.sequence.frames import check_task
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict


class ConvLSTMSettings(Strict):
    """Settings of the ConvLSTM.

    Args:
        map_width: Channels of the state.
    """

    map_width: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 16  # its maps are kept for every image


class ConvLSTM(nn.Module):
    """Two convolutions that make each image a map of a quarter of its sides, the recurrent unit, a mean and a linear layer."""

    def __init__(self, task: TaskSettings) -> None:
        super().__init__()
        sides, width = check_task(task).frame_shape, settings_of(task, ConvLSTMSettings).map_width
        if len(sides) not in (2, 3) or min(sides) < 4:
            raise JobError(
                f"Expected images of at least 4 pixels a side for a ConvLSTM, got {list(sides)}.",
                remedy="Choose a larger shape.",
            )
        spatial = len(sides)
        self.encoder = nn.Sequential(
            normalised(spatial, task.channels, width, 3, stride=2), normalised(spatial, width, width, 3, stride=2)
        )
        self.given, self.kept = (convolution(spatial, width, 4 * width, 3) for _ in range(2))
        self.head = nn.Linear(width, len(task.classes))

    def forward(self, images: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return logits ``[items, classes]``."""
        maps = self.given(self.encoder(images.flatten(0, 1)))
        maps = maps.reshape(*there.shape, *maps.shape[1:])
        hidden = cell = torch.zeros_like(maps[:, 0].chunk(4, 1)[0])
        for given, mark in zip(maps.unbind(1), there.unbind(1), strict=True):
            enter, forget, new, out = (given + self.kept(hidden)).chunk(4, 1)
            after = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
            real = mark.reshape(-1, *[1] * (after.dim() - 1)) > 0
            hidden = torch.where(real, torch.sigmoid(out) * torch.tanh(after), hidden)
            cell = torch.where(real, after, cell)
        logits: torch.Tensor = self.head(hidden.flatten(2).mean(dim=2))
        return logits


@with_settings(ConvLSTMSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network; raises JobError for another kind of task or too small images."""
    return ConvLSTM(task)
