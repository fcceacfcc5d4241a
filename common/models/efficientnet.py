"""EfficientNet (Tan and Le 2019, arXiv 1905.11946) from MONAI, with GroupNorm in place of BatchNorm, without dropout."""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.blocks import convolution, is_small
from salus.common.models.norms import with_group_norm
from salus.common.models.outputs import dimensions
from salus.common.optional_torch import nn
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict

# Of B0: repeats, kernel, stride, expansion, channels before and after; all with squeeze and excitation.
STAGES = (
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
)


class EfficientNetSettings(Strict):
    """Settings of EfficientNet.

    Args:
        width: Factor of the channels of B0.
        depth: Factor of the blocks of B0 in each stage; a stage has at least one.
        stages: Stages of B0 that are used, from the first; small images need fewer.
    """

    width: Annotated[float, Field(gt=0, le=4.3)] = 0.5  # B0 has 1.0 and L2, the largest, 4.3
    depth: Annotated[float, Field(gt=0, le=5.3)] = 0.5  # with this width 0.2 million parameters in five stages
    stages: Annotated[int, Field(ge=1, le=len(STAGES))] = 5


@with_settings(EfficientNetSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D, with a first layer of stride 1 if an image is at most 64 wide."""
    from monai.networks.nets import efficientnet

    own, spatial, small = settings_of(task, EfficientNetSettings), dimensions(task), is_small(task)
    network = efficientnet.EfficientNet(
        list(STAGES[: own.stages]),
        spatial_dims=spatial,
        in_channels=task.channels,
        num_classes=len(task.classes),
        width_coefficient=own.width,
        depth_coefficient=own.depth,
        dropout_rate=0.0,
        image_size=max(task.shape) * (2 if small else 1),  # MONAI counts the first layer's stride; it pads by this
        drop_connect_rate=0.0,
    )
    if small:
        stem = convolution(spatial, task.channels, network._conv_stem.out_channels, 3)
        network.register_module("_conv_stem", stem)
        network._conv_stem_padding = nn.Identity()
    network.set_swish(memory_efficient=False)  # the other one changes its input
    return with_group_norm(network)
