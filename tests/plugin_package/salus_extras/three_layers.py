"""A model: three convolutions."""

from typing import Annotated

from pydantic import Field
from torch import nn

from salus.common.job import TaskSettings
from salus.common.models.outputs import output_channels
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict


class ThreeLayersSettings(Strict):
    """Settings of `three-layers`.

    Args:
        hidden: Channels between the layers.
    """

    hidden: Annotated[int, Field(ge=1, le=64)] = 8


@with_settings(ThreeLayersSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network, 3-D."""
    hidden = settings_of(task, ThreeLayersSettings).hidden
    return nn.Sequential(
        nn.Conv3d(task.channels, hidden, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(hidden, hidden, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(hidden, output_channels(task), 1),
    )
