"""Vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929): self-attention between the patches of an image.

The blocks are MONAI's. Unlike in the paper, the positions are an embedding layer and the mean over patches stands for the class
token: parameters that belong to no layer would need the slow clipping engine.
"""

import math
from typing import Annotated

from pydantic import Field

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.models.blocks import is_small
from salus.common.models.outputs import dimensions
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict

MOST_PATCHES = 4096  # every pair of patches has a number in each head
PATCH, SMALL_PATCH = 16, 4


class ViTSettings(Strict):
    """Settings of the vision transformer.

    Args:
        patch: Side of a patch; 0 for 4 if an image is at most 64 wide, otherwise 16.
        hidden_size: Numbers by which the transformer describes a patch.
        depth: Transformer blocks.
        heads: Attention heads; they divide `hidden_size`.
        mlp_size: Width of the hidden layer of a block.
    """

    patch: Annotated[int, Field(ge=0, le=64)] = 0  # 16 as in the paper would leave two patches a side of a small image
    hidden_size: Annotated[int, Field(ge=16, le=1024)] = 64  # 768 in the paper, too many parameters for a few hospitals
    depth: Annotated[int, Field(ge=1, le=24)] = 4
    heads: Annotated[int, Field(ge=1, le=16)] = 4
    mlp_size: Annotated[int, Field(ge=8, le=4096)] = 128


@with_settings(ViTSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D, for images of the job's shape only; pixels beyond the last whole patch are not seen.

    Raises:
        JobError: no or too many patches, or a number of heads that does not divide hidden_size.
    """
    own, spatial = settings_of(task, ViTSettings), dimensions(task)
    side = own.patch or (SMALL_PATCH if is_small(task) else PATCH)
    patches = math.prod(length // side for length in task.shape)
    if not 0 < patches <= MOST_PATCHES or own.hidden_size % own.heads:
        raise JobError(
            f"Expected 1 to {MOST_PATCHES} patches, got {patches}, and a number of heads that divides hidden_size.",
            remedy="Correct task.patch, task.shape, task.hidden_size or task.heads.",
        )
    return ViT(spatial, task.channels, side, patches, len(task.classes), own)


class ViT(nn.Module):
    """A vision transformer.

    Args:
        spatial: number of spatial dimensions.
        side: of a patch.
        patches: of an image.
    """

    def __init__(self, spatial: int, channels: int, side: int, patches: int, outputs: int, own: ViTSettings) -> None:
        super().__init__()
        from monai.networks.blocks import transformerblock

        kind = nn.Conv2d if spatial == 2 else nn.Conv3d
        self.embed = kind(channels, own.hidden_size, side, stride=side)
        self.positions = nn.Embedding(patches, own.hidden_size)
        nn.init.normal_(self.positions.weight, std=0.02)  # as in the paper's code
        blocks = [
            transformerblock.TransformerBlock(own.hidden_size, own.mlp_size, own.heads, qkv_bias=True)
            for _ in range(own.depth)
        ]
        for block in blocks:
            # MONAI makes a norm for cross-attention that is never used; an unused parameter has no gradient.
            block.register_module("norm_cross_attn", nn.Identity())
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(own.hidden_size)
        self.head = nn.Linear(own.hidden_size, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``[items, outputs]``."""
        patches = self.embed(x).flatten(2).mT
        places = torch.arange(patches.shape[1], device=x.device).expand(len(x), -1)
        found: torch.Tensor = self.head(self.norm(self.blocks(patches + self.positions(places))).mean(dim=1))
        return found
