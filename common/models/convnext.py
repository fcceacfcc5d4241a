"""A network like ConvNeXt (Liu et al. 2022, arXiv 2201.03545) of MONAI's MedNeXt blocks (Roy et al. 2023, arXiv 2303.09975).

Depthwise convolutions, one norm and a wide layer of size 1 in each block. The norm is a GroupNorm of one group, and the scales
of the branches are left out: a parameter of no layer would need the slow clipping engine.
"""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.blocks import MAX_LEVELS, MAX_WIDTH, Blocks, GlobalMean, halvings, is_small
from salus.common.models.outputs import dimensions
from salus.common.optional_torch import nn
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict

PATCH, SMALL_PATCH = 4, 2  # side of the patches of the first layer


class ConvNeXtSettings(Strict):
    """Settings of ConvNeXt.

    Args:
        widths: Channels of each level; each level after the first has half the resolution, as long as two pixels remain.
        blocks: Blocks of each level, as many numbers as widths.
        kernel_size: Side of the depthwise convolutions, odd.
        expansion: Factor by which a block's middle layer is wider.
    """

    widths: Annotated[
        tuple[Annotated[int, Field(ge=4, le=MAX_WIDTH)], ...], Field(min_length=1, max_length=MAX_LEVELS)
    ] = (24, 48, 96)  # a quarter of the paper's smallest: 0.3 million parameters suit a few hospitals
    blocks: Blocks = (2, 2, 2)
    kernel_size: Annotated[int, Field(ge=3, le=15)] = 7  # as in the paper
    expansion: Annotated[int, Field(ge=1, le=8)] = 4  # as in the paper


@with_settings(ConvNeXtSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D.

    Raises:
        ValueError: an even kernel_size, or another number of blocks than of widths.
    """
    from monai.networks.blocks.mednext_block import MedNeXtBlock

    own, spatial = settings_of(task, ConvNeXtSettings), dimensions(task)
    if own.kernel_size % 2 == 0 or len(own.blocks) != len(own.widths):
        raise ValueError("expected an odd kernel_size, and one of blocks for each of widths")
    kind = nn.Conv2d if spatial == 2 else nn.Conv3d
    patch = SMALL_PATCH if is_small(task) else PATCH
    first = own.widths[0]
    layers: list[nn.Module] = [kind(task.channels, first, patch, stride=patch), nn.GroupNorm(1, first)]
    used = patch.bit_length() - 1
    steps, before = halvings(task, used + len(own.widths) - 1) - used, first
    for level, (width, blocks) in enumerate(zip(own.widths, own.blocks, strict=True)):
        if level:
            side = 2 if level <= steps else 1
            layers += [nn.GroupNorm(1, before), kind(before, width, side, stride=side)]
        for _ in range(blocks):
            block = MedNeXtBlock(width, width, own.expansion, own.kernel_size, dim=f"{spatial}d")
            block.norm = nn.GroupNorm(1, width)
            layers.append(block)
        before = width
    return nn.Sequential(*layers, GlobalMean(), nn.LayerNorm(before), nn.Linear(before, len(task.classes)))
