"""Fully convolutional network with skips (Long et al. 2015, arXiv 1411.4038, FCN-8s), here with a small encoder and GroupNorm.

Each of the last levels gives scores through a convolution of size 1; coarser scores are interpolated and added to finer ones.
"""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.norms import group_norm
from salus.common.models.outputs import dimensions, output_channels
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict


class FCNSettings(Strict):
    """Settings of the fully convolutional network.

    Args:
        widths: Channels of each level, from the finest to the coarsest; each level after the first halves the resolution.
        scored_levels: Number of coarsest levels whose scores are added.
    """

    widths: Annotated[tuple[Annotated[int, Field(ge=1, le=2048)], ...], Field(min_length=1, max_length=8)] = (
        16,
        32,
        64,
    )
    scored_levels: Annotated[int, Field(ge=1, le=8)] = 3  # as in FCN-8s


@with_settings(FCNSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D."""
    own = settings_of(task, FCNSettings)
    return FCN(dimensions(task), task.channels, output_channels(task), own.widths, own.scored_levels)


class FCN(nn.Module):
    """A fully convolutional network for images of any size.

    Args:
        spatial: number of spatial dimensions.
    """

    def __init__(self, spatial: int, channels: int, outputs: int, widths: tuple[int, ...], scored_levels: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if spatial == 2 else nn.Conv3d
        self.mode = "bilinear" if spatial == 2 else "trilinear"
        self.levels, self.scores = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            layers: list[nn.Module] = []
            for before, stride in ((channels, 2 if level else 1), (width, 1)):
                layers += [convolution(before, width, 3, stride=stride, padding=1), group_norm(width), nn.ReLU()]
            self.levels.append(nn.Sequential(*layers))
            channels = width
            if level >= len(widths) - scored_levels:
                self.scores.append(convolution(width, outputs, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``[items, outputs, *spatial]``."""
        size, features = x.shape[2:], []
        for level in self.levels:
            x = level(x)
            features.append(x)
        finest = len(self.levels) - len(self.scores)
        total: torch.Tensor | None = None
        for score, feature in zip(reversed(self.scores), reversed(features[finest:]), strict=True):
            found = score(feature)
            total = found if total is None else found + self._resized(total, found.shape[2:])
        assert total is not None  # Safe because there is at least one level.
        return self._resized(total, size)

    def _resized(self, x: torch.Tensor, size: torch.Size) -> torch.Tensor:
        return x if x.shape[2:] == size else F.interpolate(x, size=size, mode=self.mode, align_corners=False)
