"""V-Net (Milletari et al. 2016, arXiv 1606.04797) from MONAI, with GroupNorm."""

from typing import Annotated

from pydantic import Field

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.models.norms import with_group_norm
from salus.common.models.outputs import Padded, dimensions, output_channels, without_inplace
from salus.common.optional_torch import nn
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict

FIRST_WIDTH = 16  # fixed in MONAI; the input channels must divide it


class VNetSettings(Strict):
    """Settings of V-Net.

    Args:
        dropout: Probability with which a channel of the coarser levels is dropped in training.
    """

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # 0.5 in MONAI; federated training overfits less


@with_settings(VNetSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D; its widths are those of the paper, 45 million parameters in 3-D.

    Raises:
        JobError: the number of channels does not divide 16.
    """
    from monai.networks.nets import vnet

    if FIRST_WIDTH % task.channels:
        raise JobError(
            f"Expected 1, 2, 4, 8 or 16 channels for the model 'vnet', got {task.channels}.",
            remedy="Choose another model or another number of channels.",
        )
    dropout = settings_of(task, VNetSettings).dropout
    spatial = dimensions(task)
    network = vnet.VNet(
        spatial_dims=spatial,
        in_channels=task.channels,
        out_channels=output_channels(task),
        act=("elu", {"inplace": False}),
        dropout_dim=spatial,
    )
    for layer in network.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):  # MONAI takes no probability for the finest levels
            layer.p = dropout
    return Padded(without_inplace(with_group_norm(network)), 16)
