"""SegResNet (Myronenko 2018, arXiv 1810.11654) from MONAI, with GroupNorm and, if wanted, deep supervision."""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.outputs import Padded, dimensions, output_channels, stacked_heads
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict

HEADS = 3  # outputs in training with deep supervision


class SegResNetSettings(Strict):
    """Settings of SegResNet.

    Args:
        first_width: Channels of the finest level, a multiple of 8; each coarser level has twice as many.
        blocks: Residual blocks of each level, from the finest to the coarsest.
        deep_supervision: Whether coarser levels have outputs of their own in training, which are compared with the masks too.
    """

    first_width: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 8  # as in the paper's smallest network in MONAI
    blocks: Annotated[tuple[Annotated[int, Field(ge=1, le=8)], ...], Field(min_length=2, max_length=6)] = (1, 2, 2, 4)
    deep_supervision: bool = False  # helps deep networks, costs memory


@with_settings(SegResNetSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D."""
    from monai.networks.nets import segresnet_ds

    own = settings_of(task, SegResNetSettings)
    network = segresnet_ds.SegResNetDS(
        spatial_dims=dimensions(task),
        init_filters=own.first_width,
        in_channels=task.channels,
        out_channels=output_channels(task),
        act=("relu", {"inplace": False}),
        norm=("group", {"num_groups": 8}),
        blocks_down=own.blocks,
        dsdepth=min(HEADS, len(own.blocks) - 1) if own.deep_supervision else 1,
        upsample_mode="deconv",  # unlike interpolation, its gradient is repeatable on a GPU
    )
    return Padded(_Stacked(network), 2 ** (len(own.blocks) - 1))


class _Stacked(nn.Module):
    """Gives the outputs of deep supervision as one tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``[items, outputs, *spatial]``; in training with deep supervision ``[items, heads, outputs, ...]``."""
        found = self.network(x)
        return stacked_heads(found) if isinstance(found, list) else found
