"""A small U-Net in two dimensions with the four maps of `tasks.centres`; a clip's or volume's pictures are seen one by one."""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.object_masks import with_masks
from salus.common.models.unet import UNet
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict
from salus.common.tasks.centres import MAPS, CentreMaps

RARE = -2.0  # few pixels are near a centre; training begins there


class CentresSettings(Strict):
    """Settings of the network.

    Args:
        widths: Channels of each level, from the finest to the coarsest.
        convolutions: Convolutions of each level on the way down, and of each but the last on the way up.
    """

    widths: Annotated[tuple[Annotated[int, Field(ge=1, le=2048)], ...], Field(min_length=2, max_length=8)] = (
        16,
        32,
        64,
    )
    convolutions: Annotated[int, Field(ge=1, le=4)] = 1  # few parameters suit federated and noised training


@with_masks(CentreMaps)
@with_settings(CentresSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network."""
    own = settings_of(task, CentresSettings)
    return Centres(task.channels, own.widths, own.convolutions)


class Centres(nn.Module):
    """Four maps ``[pictures, 4, rows, columns]`` of pictures ``[pictures, channels, rows, columns]`` of any size."""

    def __init__(self, channels: int, widths: tuple[int, ...], convolutions: int) -> None:
        super().__init__()
        self.network = UNet(2, channels, MAPS, widths, convolutions)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the maps."""
        found: torch.Tensor = self.network(x)
        start = found.new_tensor([RARE, RARE / 2, 0.0, 0.0])
        return found + start.reshape(1, MAPS, 1, 1)
