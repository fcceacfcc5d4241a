"""UNETR (Hatamizadeh et al. 2022, arXiv 2103.10504) from MONAI: a vision transformer with the decoder of a U-Net."""

from typing import Annotated

from pydantic import Field

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.models.outputs import Padded, dimensions, output_channels, without_inplace
from salus.common.optional_torch import nn
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict

PATCH = 16  # fixed in MONAI's decoder


class UNETRSettings(Strict):
    """Settings of UNETR.

    Args:
        first_width: Channels of the decoder's finest level.
        hidden_size: Numbers by which the transformer describes a patch of 16 voxels a side.
        heads: Attention heads; they divide `hidden_size`.
        mlp_size: Width of the transformer's hidden layers.
    """

    first_width: Annotated[int, Field(ge=1, le=256)] = 8
    hidden_size: Annotated[int, Field(ge=8, le=2048)] = 96  # 768 in the paper, too many parameters for a few hospitals
    heads: Annotated[int, Field(ge=1, le=64)] = 6
    mlp_size: Annotated[int, Field(ge=8, le=8192)] = 192


@with_settings(UNETRSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D, for images of the job's shape only, because each patch has its own position vector.

    Raises:
        JobError: a side below 32, or a number of heads that does not divide hidden_size.
    """
    from monai.networks.nets import unetr

    own = settings_of(task, UNETRSettings)
    spatial = dimensions(task)
    sides = [side + -side % PATCH for side in task.shape]
    if min(sides) < 2 * PATCH or own.hidden_size % own.heads:
        raise JobError(
            "Expected sides above 16 and a number of heads that divides hidden_size for the model 'unetr'.",
            remedy="Correct task.shape, task.hidden_size or task.heads.",
        )
    network = unetr.UNETR(
        in_channels=task.channels,
        out_channels=output_channels(task),
        img_size=sides,
        feature_size=own.first_width,
        hidden_size=own.hidden_size,
        mlp_dim=own.mlp_size,
        num_heads=own.heads,
        norm_name=("instance", {"affine": True}),
        spatial_dims=spatial,
    )
    for block in network.vit.blocks:
        # MONAI makes a norm for cross-attention that is never used; an unused parameter has no gradient.
        block.norm_cross_attn = nn.Identity()
    return Padded(without_inplace(network), PATCH)
