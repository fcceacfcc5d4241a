"""DenseNet (Huang et al. 2017, arXiv 1608.06993) of any growth and depth from MONAI, with GroupNorm in place of BatchNorm.

The larger `densenet121` has the paper's sizes.
"""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.blocks import Blocks, Width, convolution, is_small
from salus.common.models.norms import with_group_norm
from salus.common.models.outputs import dimensions, without_inplace
from salus.common.optional_torch import nn
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict


class DenseNetSettings(Strict):
    """Settings of DenseNet.

    Args:
        first_width: Channels of the first layer.
        growth: Channels that each layer adds.
        blocks: Layers of each dense block; each block after the first has half the resolution.
        bottleneck: Factor of `growth` of the channels between the two convolutions of a layer.
    """

    first_width: Width = 16
    growth: Annotated[int, Field(ge=2, le=64)] = 8  # 32 in the paper, too many parameters for a few hospitals
    blocks: Blocks = (4, 4, 4)
    bottleneck: Annotated[int, Field(ge=1, le=8)] = 4  # as in the paper


@with_settings(DenseNetSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D, with a first layer of stride 1 if an image is at most 64 wide."""
    from monai.networks.nets import densenet

    own, spatial = settings_of(task, DenseNetSettings), dimensions(task)
    network = densenet.DenseNet(
        spatial_dims=spatial,
        in_channels=task.channels,
        out_channels=len(task.classes),
        init_features=own.first_width,
        growth_rate=own.growth,
        block_config=own.blocks,
        bn_size=own.bottleneck,
    )
    if is_small(task):
        network.features.conv0 = convolution(spatial, task.channels, own.first_width, 3)
        network.features.pool0 = nn.Identity()
    return without_inplace(with_group_norm(network))
