"""DenseNet-121 (Huang et al. 2017, arXiv 1608.06993) from MONAI, with GroupNorm in place of BatchNorm."""

from salus.common.job import TaskSettings
from salus.common.models.norms import with_group_norm
from salus.common.optional_torch import nn


def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D."""
    from monai.networks.nets import densenet

    model = densenet.DenseNet121(
        spatial_dims=len(task.shape),
        in_channels=task.channels,
        out_channels=len(task.classes),
    )
    return with_group_norm(model)
