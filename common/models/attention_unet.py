"""Attention U-Net (Oktay et al. 2018, arXiv 1804.03999) from MONAI, with GroupNorm, and ReLU where MONAI has PReLU."""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.norms import with_group_norm
from salus.common.models.outputs import Padded, dimensions, output_channels
from salus.common.optional_torch import nn
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict


class AttentionUNetSettings(Strict):
    """Settings of the Attention U-Net.

    Args:
        widths: Channels of each level, from the finest to the coarsest.
        dropout: Probability with which a value is dropped in training.
    """

    widths: Annotated[tuple[Annotated[int, Field(ge=2, le=2048)], ...], Field(min_length=2, max_length=8)] = (
        16,
        32,
        64,
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


@with_settings(AttentionUNetSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D."""
    from monai.networks.nets import attentionunet

    own = settings_of(task, AttentionUNetSettings)
    network = attentionunet.AttentionUnet(
        spatial_dims=dimensions(task),
        in_channels=task.channels,
        out_channels=output_channels(task),
        channels=own.widths,
        strides=[2] * (len(own.widths) - 1),
        dropout=own.dropout,
    )
    return Padded(_with_relu(with_group_norm(network)), 2 ** (len(own.widths) - 1))


def _with_relu(model: nn.Module) -> nn.Module:
    """Replace every PReLU, whose slope is a parameter that the fast clipping engine does not support."""
    for name, child in model.named_children():
        if isinstance(child, nn.PReLU):
            setattr(model, name, nn.ReLU())
        else:
            _with_relu(child)
    return model
