"""A small convolutional network with GroupNorm, 2-D or 3-D; about 15 000 parameters for one channel in 2-D."""

from salus.common.job import TaskSettings
from salus.common.models.blocks import GlobalMean
from salus.common.optional_torch import nn

WIDTHS = (16, 32, 32)
GROUPS = 8


def build(task: TaskSettings) -> nn.Module:
    """Return the network for `task`'s dimensions, channels and classes."""
    convolution = nn.Conv2d if len(task.shape) == 2 else nn.Conv3d
    pool = nn.MaxPool2d if len(task.shape) == 2 else nn.MaxPool3d
    layers: list[nn.Module] = []
    channels = task.channels
    smallest = min(task.shape)
    for width in WIDTHS:
        layers += [convolution(channels, width, kernel_size=3, padding=1), nn.GroupNorm(GROUPS, width), nn.ReLU()]
        if smallest >= 4:
            layers.append(pool(2))
            smallest //= 2
        channels = width
    return nn.Sequential(*layers, GlobalMean(), nn.Linear(channels, len(task.classes)))
