"""The residual networks of MONAI (He et al. 2016, arXiv 1512.03385), with GroupNorm in place of BatchNorm."""

from collections.abc import Sequence
from typing import Literal

from salus.common.job import TaskSettings
from salus.common.models.blocks import is_small
from salus.common.models.norms import with_group_norm
from salus.common.models.outputs import dimensions, without_inplace
from salus.common.optional_torch import nn


def residual(
    task: TaskSettings, block: Literal["basic", "bottleneck"], blocks: Sequence[int], widths: Sequence[int]
) -> nn.Module:
    """Return a network, 2-D or 3-D, with the small stem (stride 1, no pooling) if an image is at most 64 wide.

    Args:
        blocks, widths: of each of the four levels.
    """
    from monai.networks.nets import resnet

    small = is_small(task)
    network = resnet.ResNet(
        block,
        list(blocks),
        list(widths),
        spatial_dims=dimensions(task),
        n_input_channels=task.channels,
        num_classes=len(task.classes),
        conv1_t_size=3 if small else 7,
        conv1_t_stride=1 if small else 2,
        no_max_pool=small,
    )
    return without_inplace(with_group_norm(network))
