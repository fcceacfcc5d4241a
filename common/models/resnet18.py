"""ResNet-18 (He et al. 2016, arXiv 1512.03385) from MONAI, with GroupNorm in place of BatchNorm."""

from torch import nn

from salus.common.job import TaskSettings
from salus.common.models.norms import with_group_norm


def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D, with the small stem (stride 1, no pooling) if an image is at most 64 wide."""
    from monai.networks.nets import resnet

    small = max(task.shape) <= 64
    model = resnet.resnet18(
        spatial_dims=len(task.shape),
        n_input_channels=task.channels,
        num_classes=len(task.classes),
        conv1_t_size=3 if small else 7,
        conv1_t_stride=1 if small else 2,
        no_max_pool=small,
    )
    return with_group_norm(model)
