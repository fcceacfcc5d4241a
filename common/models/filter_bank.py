"""Fixed filters, then a small network at every voxel: for strong noise, where a thousand parameters learn more than ten thousand.

The noise of differential privacy grows with the number of trained parameters. Features that nobody has to learn cost nothing:
derivatives of Gaussians at several scales (Koenderink and van Doorn 1987), as in the scattering features of Tramèr and Boneh
2021 (arXiv 2011.11660), which under strong noise surpass networks that learn their own. Only convolutions of size 1 are trained.
"""

import functools
import itertools
from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.outputs import dimensions, output_channels
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings
from salus.common.strict import Strict

SMALLEST_DEVIATION = 1e-3  # of a feature in one image; a constant feature becomes zero and not noise
REACH = 3.0  # standard deviations of a Gaussian within the filter; 0.3 % of its mass lies beyond


class FilterBankSettings(Strict):
    """Settings of the filter bank.

    Args:
        hidden: Channels of each layer between the filters and the outputs; empty for a linear model.
        scales: Standard deviations of the Gaussians, in voxels of the job's grid.
        derivatives: Largest order of the derivatives.
        place_powers: Largest power of a voxel's position in the image among the features, for images that show the same place of
            the body; 0 for none, which windows of larger images need.
    """

    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=512)], ...], Field(max_length=4)] = (
        16,
    )  # the best in trials
    scales: Annotated[tuple[Annotated[float, Field(gt=0.3, le=32)], ...], Field(min_length=1, max_length=6)] = (
        1.0,
        2.0,
        4.0,
    )
    derivatives: Annotated[int, Field(ge=0, le=2)] = 2  # edges and ridges
    place_powers: Annotated[int, Field(ge=0, le=4)] = 0  # most images do not show the same place


@with_settings(FilterBankSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return the network, 2-D or 3-D."""
    own = settings_of(task, FilterBankSettings)
    return FilterBank(dimensions(task), task.channels, output_channels(task), own)


class FilterBank(nn.Module):
    """A network of fixed filters for images of any size.

    Args:
        spatial: number of spatial dimensions.
    """

    def __init__(self, spatial: int, channels: int, outputs: int, own: FilterBankSettings) -> None:
        super().__init__()
        self._own = own
        self._orders = _powers(spatial, own.derivatives)
        self._places = _powers(spatial, own.place_powers)[1:]  # the first is a constant
        width = channels * (1 + len(own.scales) * len(self._orders)) + len(self._places)
        one = nn.Conv2d if spatial == 2 else nn.Conv3d
        layers: list[nn.Module] = []
        for hidden in own.hidden:
            layers += [one(width, hidden, 1), nn.ReLU()]
            width = hidden
        self.head = nn.Sequential(*layers, one(width, outputs, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``[items, outputs, *spatial]``."""
        found: torch.Tensor = self.head(self.features(x))
        return found

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the fixed features ``[items, features, *spatial]``: of each image mean 0 and standard deviation 1."""
        axes = range(2, x.dim())
        parts = [x]
        for scale in self._own.scales:
            done: dict[tuple[int, ...], torch.Tensor] = {(): x}
            for axis in axes:  # one axis after the other, so that each product of filters is computed once
                filters = [_filter(x.shape[axis], scale, order, x.dtype, x.device) for order in range(3)]
                done = {
                    (*orders, order): _along(values, filters[order], axis)
                    for orders, values in done.items()
                    for order in range(self._own.derivatives - sum(orders) + 1)
                }
            parts += [done[orders] for orders in self._orders]
        whole = torch.cat(parts, dim=1)
        whole = whole - whole.mean(tuple(axes), keepdim=True)
        whole = whole / (whole.square().mean(tuple(axes), keepdim=True).sqrt() + SMALLEST_DEVIATION)
        return torch.cat([whole, self._positions(x)], dim=1) if self._places else whole

    def _positions(self, x: torch.Tensor) -> torch.Tensor:
        """Return the powers of positions, ``[items, powers, *spatial]``, with mean 0 and standard deviation 1."""
        axes = [torch.linspace(-1, 1, side, dtype=x.dtype, device=x.device) for side in x.shape[2:]]
        grid = torch.meshgrid(*axes, indexing="ij")
        powers = [torch.stack([g**p for g, p in zip(grid, powers, strict=True)]).prod(0) for powers in self._places]
        found = torch.stack(powers)
        deviation, mean = torch.std_mean(found.flatten(1), dim=1, correction=0)
        shape = (-1, *[1] * len(grid))
        found = (found - mean.reshape(shape)) / (deviation.reshape(shape) + SMALLEST_DEVIATION)
        return found.expand(len(x), *found.shape)


def _powers(spatial: int, most: int) -> list[tuple[int, ...]]:
    """Return all exponents of `spatial` variables whose sum is at most `most`, the zeros first."""
    return [powers for powers in itertools.product(range(most + 1), repeat=spatial) if sum(powers) <= most]


def _along(x: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    return (x.movedim(axis, -1) @ matrix).movedim(-1, axis)


@functools.lru_cache(maxsize=256)
def _filter(side: int, scale: float, order: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the matrix ``[side, side]`` by which a row is multiplied to get a Gaussian's derivative of it.

    The derivative is scaled by ``scale ** order``, so that features of all scales are alike. Beyond the border the image is
    continued by its last voxel.
    """
    reach = max(1, int(REACH * scale + 0.5))
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / scale) ** 2)
    weights = weights / weights.sum()
    if order == 1:
        weights = offsets / scale * weights
    elif order == 2:
        weights = ((offsets / scale) ** 2 - 1) * weights
        weights = weights - weights.mean()  # a constant has no second derivative
    matrix = torch.zeros(side, side, dtype=torch.float64)
    for place in range(side):
        sources = (place + torch.arange(-reach, reach + 1)).clamp(0, side - 1)
        matrix[:, place].index_add_(0, sources, weights)
    return matrix.to(dtype=dtype, device=device)
