"""U-Net (Ronneberger et al. 2015, arXiv 1505.04597; Çiçek et al. 2016, arXiv 1606.06650), with GroupNorm and ReLU.

The plan is that of MONAI's UNet without residual units: a strided convolution leads to each level, and one transposed
convolution maps a level and its skip connection to the level above. All layers are such that per-patient gradients are fast.
"""

from typing import Annotated, Literal

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.norms import group_norm
from salus.common.models.outputs import cropped, dimensions, output_channels, stacked_heads
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict

MOST_HEADS = 3  # coarser levels have too few voxels to supervise


class UNetSettings(Strict):
    """Settings of the U-Net.

    Args:
        widths: Channels of each level, from the finest to the coarsest.
        convolutions: Convolutions of each level on the way down, and of each but the last on the way up.
        first_stride: Stride of the first convolution: 2 computes at half the resolution, at a fraction of the cost.
        coordinates: Whether each voxel's position in the image, and the square of it, are further input channels; for images
            that show the same place of the body, never for windows of larger images.
        deep_supervision: Whether coarser levels have outputs of their own in training, which are compared with the masks too.
    """

    widths: Annotated[tuple[Annotated[int, Field(ge=1, le=2048)], ...], Field(min_length=2, max_length=8)] = (
        16,
        32,
        64,
    )
    convolutions: Annotated[int, Field(ge=1, le=4)] = 1  # few parameters suit federated and noised training
    first_stride: Literal[1, 2] = 1  # full resolution: small structures survive
    coordinates: bool = False  # useful under strong noise: structures are told apart by where they lie
    deep_supervision: bool = False  # helps deep networks, costs memory


@with_settings(UNetSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D."""
    own = settings_of(task, UNetSettings)
    return UNet(
        dimensions(task),
        task.channels,
        output_channels(task),
        own.widths,
        own.convolutions,
        own.first_stride,
        min(MOST_HEADS, len(own.widths) - 1) if own.deep_supervision else 1,
        own.coordinates,
    )


class UNet(nn.Module):
    """A U-Net for images of any size.

    Args:
        spatial: number of spatial dimensions.
        heads: number of outputs in training.
        coordinates: whether positions are input channels (Liu et al. 2018, arXiv 1807.03247).
    """

    def __init__(
        self,
        spatial: int,
        channels: int,
        outputs: int,
        widths: tuple[int, ...],
        convolutions: int = 1,
        first_stride: int = 1,
        heads: int = 1,
        coordinates: bool = False,
    ) -> None:
        super().__init__()
        self.coordinates = coordinates
        channels += 2 * spatial if coordinates else 0
        strides = [first_stride, *[2] * (len(widths) - 2), 1]
        self.down = nn.ModuleList(
            _level(spatial, before, width, stride, convolutions)
            for before, width, stride in zip((channels, *widths[:-1]), widths, strides, strict=True)
        )
        self.up, self.refine = nn.ModuleList(), nn.ModuleList()
        below = widths[-1]
        for level in range(len(widths) - 2, -1, -1):
            width = widths[level - 1] if level else outputs
            self.up.append(_up(spatial, below + widths[level], width, strides[level]))
            if level:
                more = [group_norm(width), nn.ReLU()]
                for _ in range(convolutions - 1):
                    more += [_convolution(spatial, width, width, 1), group_norm(width), nn.ReLU()]
                self.refine.append(nn.Sequential(*more))
            below = width
        one = nn.Conv2d if spatial == 2 else nn.Conv3d
        # One for each of the last levels before the output, the finest first.
        self.heads = nn.ModuleList(one(widths[level], outputs, 1) for level in range(heads - 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``[items, outputs, *spatial]``; in training with deep supervision ``[items, heads, outputs, ...]``."""
        if self.coordinates:
            x = torch.cat([x, positions(x)], dim=1)
        sizes, levels = [], []
        for down in self.down:
            sizes.append(x.shape[2:])
            x = down(x)
            levels.append(x)
        coarse = []
        for place, up in enumerate(self.up):
            level = len(self.up) - 1 - place
            x = cropped(up(torch.cat([x, levels[level]], dim=1)), sizes[level])
            if level:
                x = self.refine[place](x)
                if self.training and level <= len(self.heads):
                    coarse.append(self.heads[level - 1](x))
        return stacked_heads([x, *reversed(coarse)]) if coarse else x


def positions(x: torch.Tensor) -> torch.Tensor:
    """Return each voxel's position from -1 to 1 along each axis, and its centred square, ``[items, 2 * spatial, *spatial]``.

    With squares, already one linear layer can draw an ellipsoid around a place.
    """
    axes = [torch.linspace(-1, 1, side, dtype=x.dtype, device=x.device) for side in x.shape[2:]]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return torch.cat([places, places**2 - 1 / 3]).expand(len(x), -1, *x.shape[2:])


def _level(spatial: int, before: int, width: int, stride: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(convolutions):
        layers += [
            _convolution(spatial, width if number else before, width, 1 if number else stride),
            group_norm(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def _convolution(spatial: int, before: int, width: int, stride: int) -> nn.Module:
    kind = nn.Conv2d if spatial == 2 else nn.Conv3d
    return kind(before, width, kernel_size=3, stride=stride, padding=1)


def _up(spatial: int, before: int, width: int, stride: int) -> nn.Module:
    """Return a transposed convolution to `stride` times the size; an odd side is one too long."""
    kind = nn.ConvTranspose2d if spatial == 2 else nn.ConvTranspose3d
    return kind(before, width, kernel_size=3, stride=stride, padding=1, output_padding=stride - 1)
