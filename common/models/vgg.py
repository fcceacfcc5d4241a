"""VGG (Simonyan and Zisserman 2014, arXiv 1409.1556): plain 3 x 3 convolutions, with GroupNorm.

Unlike in the paper, a mean over positions stands before the linear layers: they fit images of any size and have few parameters.
"""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.blocks import GlobalMean, Width, Widths, halvings, normalised
from salus.common.models.outputs import dimensions
from salus.common.optional_torch import nn
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict


class VGGSettings(Strict):
    """Settings of VGG.

    Args:
        widths: Channels of each level; each level after the first has half the resolution, as long as two pixels remain.
        convolutions: Convolutions of each level.
        hidden: Width of the linear layer before the outputs.
    """

    widths: Widths = (16, 32, 64, 128)  # a quarter of the paper's: 0.3 million parameters suit a few hospitals
    convolutions: Annotated[int, Field(ge=1, le=4)] = 2  # as in the first levels of the paper
    hidden: Width = 128


@with_settings(VGGSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D."""
    own, spatial = settings_of(task, VGGSettings), dimensions(task)
    pool = nn.MaxPool2d if spatial == 2 else nn.MaxPool3d
    layers: list[nn.Module] = []
    before, pools = task.channels, halvings(task, len(own.widths) - 1)
    for level, width in enumerate(own.widths):
        if 0 < level <= pools:
            layers.append(pool(2))
        for _ in range(own.convolutions):
            layers.append(normalised(spatial, before, width, 3))
            before = width
    head = [GlobalMean(), nn.Linear(before, own.hidden), nn.ReLU(), nn.Linear(own.hidden, len(task.classes))]
    return nn.Sequential(*layers, *head)
