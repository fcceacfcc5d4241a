"""Parts that the networks for recognition share; 2-D and 3-D, with GroupNorm."""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.norms import group_norm
from salus.common.optional_torch import nn, torch

SMALL = 64  # up to this many pixels a side, a first layer that halves the image twice would lose too much
MAX_LEVELS, MAX_WIDTH, MAX_BLOCKS = 6, 1024, 36  # the largest published networks of these families are within
Width = Annotated[int, Field(ge=2, le=MAX_WIDTH)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=MAX_LEVELS)]
Blocks = Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_BLOCKS)], ...], Field(min_length=1, max_length=MAX_LEVELS)]


class GlobalMean(nn.Module):
    """Mean over all spatial dimensions: ``[batch, channels, *spatial]`` to ``[batch, channels]``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean."""
        return x.flatten(2).mean(dim=2)


def is_small(task: TaskSettings) -> bool:
    """Return whether a job's images are so small that the first layer keeps their size."""
    return max(task.shape) <= SMALL


def convolution(spatial: int, before: int, width: int, size: int, *, stride: int = 1, groups: int = 1) -> nn.Module:
    """Return a convolution of an odd size, padded so that only the stride changes the size of an image."""
    kind = nn.Conv2d if spatial == 2 else nn.Conv3d
    return kind(before, width, size, stride=stride, padding=size // 2, groups=groups)


def normalised(spatial: int, before: int, width: int, size: int, *, stride: int = 1) -> nn.Sequential:
    """Return a convolution with GroupNorm and ReLU."""
    return nn.Sequential(convolution(spatial, before, width, size, stride=stride), group_norm(width), nn.ReLU())


def halvings(task: TaskSettings, most: int, *, least: int = 2) -> int:
    """Return how often every side can be halved so that at least `least` pixels remain; at most `most`."""
    side, count = min(task.shape), 0
    while count < most and side // 2 >= least:
        side, count = side // 2, count + 1
    return count
