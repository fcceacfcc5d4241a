"""Inception (Szegedy et al. 2015, arXiv 1409.4842): filters of several sizes beside each other, with GroupNorm.

The 5 x 5 branch is two 3 x 3 convolutions, as in the second version (Szegedy et al. 2016, arXiv 1512.00567). There are no
auxiliary classifiers.
"""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.blocks import MAX_LEVELS, MAX_WIDTH, GlobalMean, halvings, is_small, normalised
from salus.common.models.outputs import dimensions
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict


class InceptionSettings(Strict):
    """Settings of Inception.

    Args:
        widths: Channels of each level, multiples of 8; each level after the first has half the resolution, as long as two pixels
            remain.
        modules: Inception modules of each level.
    """

    widths: Annotated[
        tuple[Annotated[int, Field(ge=8, le=MAX_WIDTH, multiple_of=8)], ...],
        Field(min_length=1, max_length=MAX_LEVELS),
    ] = (32, 64, 128)  # 0.2 million parameters suit a few hospitals
    modules: Annotated[int, Field(ge=1, le=8)] = 2


@with_settings(InceptionSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D, with a first layer of stride 1 if an image is at most 64 wide."""
    own, spatial = settings_of(task, InceptionSettings), dimensions(task)
    pool = nn.MaxPool2d if spatial == 2 else nn.MaxPool3d
    small, before = is_small(task), own.widths[0]
    stem = normalised(spatial, task.channels, before, 3 if small else 7, stride=1 if small else 2)
    layers: list[nn.Module] = [stem]
    pools = halvings(task, len(own.widths) - (1 if small else 0)) - (0 if small else 1)
    for level, width in enumerate(own.widths):
        if 0 < level <= pools:
            layers.append(pool(2))
        for _ in range(own.modules):
            layers.append(InceptionModule(spatial, before, width))
            before = width
    return nn.Sequential(*layers, GlobalMean(), nn.Linear(before, len(task.classes)))


class InceptionModule(nn.Module):
    """Four branches whose channels are joined; each image keeps its size.

    Args:
        width: channels of the output: an eighth from size 1, half from size 3, a quarter from size 5, an eighth from pooling.
    """

    def __init__(self, spatial: int, before: int, width: int) -> None:
        super().__init__()
        one, three, five = width // 8, width // 2, width // 4
        pool = nn.MaxPool2d if spatial == 2 else nn.MaxPool3d
        self.branches = nn.ModuleList(
            [
                normalised(spatial, before, one, 1),
                nn.Sequential(normalised(spatial, before, five, 1), normalised(spatial, five, three, 3)),
                nn.Sequential(
                    normalised(spatial, before, one, 1),
                    normalised(spatial, one, five, 3),
                    normalised(spatial, five, five, 3),
                ),
                nn.Sequential(pool(3, stride=1, padding=1), normalised(spatial, before, one, 1)),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[items, width, *spatial]``."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)
