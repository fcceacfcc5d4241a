"""ResNet-18 (He et al. 2016, arXiv 1512.03385) from MONAI, with GroupNorm in place of BatchNorm."""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.blocks import Width
from salus.common.models.residual import residual
from salus.common.optional_torch import nn
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict

BLOCKS = (2, 2, 2, 2)


class ResNet18Settings(Strict):
    """Settings of ResNet-18.

    Args:
        widths: Channels of each level.
    """

    widths: Annotated[tuple[Width, ...], Field(min_length=len(BLOCKS), max_length=len(BLOCKS))] = (
        64,
        128,
        256,
        512,
    )  # as in the paper, 11 million parameters; a quarter suits a few hospitals


@with_settings(ResNet18Settings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D, with the small stem (stride 1, no pooling) if an image is at most 64 wide."""
    return residual(task, "basic", BLOCKS, settings_of(task, ResNet18Settings).widths)
