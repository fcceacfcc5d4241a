"""Changes of the grid: how arrays are moved, and the matrix from a new voxel's index to the old index it is taken from.

With that matrix the new affine follows: ``affine @ matrix`` sends a new index to the old one and on to millimetres.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from salus.common.errors import UnreadableImage
from salus.common.examples import BOXES, Affine, Array, Example
from salus.common.transforms.base import MAX_VALUES, grid_shape, is_image

Matrix = npt.NDArray[np.float64]
Outside = Literal["border", "zeros", "reflection"]


class Move(Protocol):
    """One change of the grid."""

    @property
    def matrix(self) -> Matrix:
        """``[d + 1, d + 1]`` from new to old indices."""

    def apply(self, array: Array) -> Array:
        """Return ``[channels, *new]`` from ``[channels, *old]``; class numbers are never mixed."""

    def reverse(self, shape: tuple[int, ...]) -> "Move":
        """Return the move back to a grid of these sides."""


def moved(example: Example, move: Move) -> Example:
    """Return the example with all spatial fields on the new grid and the affine that belongs to it.

    Raises:
        UnreadableImage: a field would have more values than `MAX_VALUES`; the sides of a pad, for example, are the larger of
            the job's and the image's, so neither alone bounds them.
    """
    size = getattr(move, "size", ())
    if math.prod(size) * max((len(example[name]) for name in example.spatial), default=1) > MAX_VALUES:
        raise UnreadableImage("too-large", "a step of the job's transforms would give it too many voxels")
    fields = {name: move.apply(example[name]) for name in example.spatial}
    if BOXES in example:
        sides = next(iter(fields.values())).shape[1:]
        fields[BOXES] = moved_boxes(example[BOXES], move.matrix, sides)
    return replace(example.with_fields(**fields), affine=carried(example.affine, move.matrix))


def moved_boxes(boxes: Array, matrix: Matrix, sides: Sequence[int]) -> Array:
    """Return the boxes around the moved corners of boxes, cut at the border; those whose centre lies outside are left out.

    Args:
        boxes: ``[boxes, 2 dims + more]``, corners as in `client.data.targets`, and numbers that stay as they are; pixel 0
            covers 0 to 1, so its index is at 0.5.
        matrix: from new to old indices, see `Move`.
        sides: of the new grid.
    """
    dims = len(sides)
    low, high = boxes[:, None, :dims], boxes[:, None, dims : 2 * dims]
    which = np.array(list(itertools.product((0, 1), repeat=dims)))
    corners = low * (1 - which) + high * which - 0.5
    back = np.linalg.inv(matrix)
    moved = corners @ back[:-1, :-1].T + back[:-1, -1] + 0.5
    start, end = moved.min(axis=1), moved.max(axis=1)
    middle = (start + end) / 2
    inside = ((middle >= 0) & (middle < np.array(sides))).all(axis=1)
    cut = [np.clip(part, 0, np.array(sides)) for part in (start, end)]
    found: Array = np.concatenate([*cut, boxes[:, 2 * dims :]], axis=1)[inside].astype(np.float32)
    return found


def moved_back(example: Example, move: Move, original: Example) -> Example:
    """Return the example with all spatial fields, and its boxes, on the grid that `original` had before the move."""
    sides = grid_shape(original)
    back = move.reverse(sides)
    fields = {name: back.apply(example[name]) for name in example.spatial}
    if BOXES in example:
        fields[BOXES] = moved_boxes(example[BOXES], back.matrix, sides)
    return replace(example.with_fields(**fields), affine=original.affine)


def carried(affine: Affine | None, matrix: Matrix) -> Affine | None:
    """Return the affine of the new grid; a plane's two axes are the last two of the affine's three."""
    if affine is None:
        return None
    first = 4 - len(matrix)
    whole = np.eye(4)
    whole[first:, first:] = matrix
    return affine @ whole


@dataclass(frozen=True)
class Frame:
    """A part of the grid, which may reach beyond it: a crop, a pad, or both.

    Args:
        start: index of the first voxel, negative where the frame begins before the grid.
        size: sides of the frame.
        value: what images hold outside the grid; class numbers are 0 there.
        mode: ``constant``, or how the image is continued.
    """

    start: tuple[int, ...]
    size: tuple[int, ...]
    value: float = 0.0
    mode: Literal["constant", "edge", "reflect"] = "constant"

    @property
    def matrix(self) -> Matrix:
        matrix = np.eye(len(self.start) + 1)
        matrix[:-1, -1] = self.start
        return matrix

    def apply(self, array: Array) -> Array:
        inner, widths = [slice(None)], [(0, 0)]
        for begin, side, length in zip(self.start, self.size, array.shape[1:], strict=True):
            low, high = min(max(begin, 0), length), max(min(begin + side, length), 0)
            inner.append(slice(low, max(low, high)))
            before = min(max(0, -begin), side)
            widths.append((before, side - before - max(0, high - low)))
        part = array[tuple(inner)]
        if not any(max(width) for width in widths):
            return np.ascontiguousarray(part)
        if is_image(array) and self.mode != "constant" and part.size:
            return np.pad(part, widths, mode=self.mode)
        return np.pad(part, widths, constant_values=self.value if is_image(array) else 0)

    def reverse(self, shape: tuple[int, ...]) -> "Frame":
        return Frame(tuple(-begin for begin in self.start), shape)


@dataclass(frozen=True)
class Turn:
    """Axes in another order and direction; nothing is interpolated.

    Args:
        order: for each new axis, the old one.
        flipped: for each new axis, whether it runs the other way.
        shape: sides of the old grid.
    """

    order: tuple[int, ...]
    flipped: tuple[bool, ...]
    shape: tuple[int, ...]

    @property
    def matrix(self) -> Matrix:
        matrix = np.zeros((len(self.order) + 1,) * 2)
        matrix[-1, -1] = 1
        for new, (old, back) in enumerate(zip(self.order, self.flipped, strict=True)):
            matrix[old, new] = -1 if back else 1
            matrix[old, -1] = self.shape[old] - 1 if back else 0
        return matrix

    def apply(self, array: Array) -> Array:
        turned = np.transpose(array, (0, *(axis + 1 for axis in self.order)))
        axes = [axis + 1 for axis, back in enumerate(self.flipped) if back]
        return np.ascontiguousarray(np.flip(turned, tuple(axes)))

    def reverse(self, shape: tuple[int, ...]) -> "Turn":
        order = tuple(self.order.index(axis) for axis in range(len(self.order)))
        return Turn(order, tuple(self.flipped[new] for new in order), tuple(shape[old] for old in self.order))


@dataclass(frozen=True)
class Zoom:
    """The same extent in the patient with another number of voxels.

    Images of two dimensions are averaged when they shrink; volumes are interpolated between their nearest voxels, or
    averaged with ``area``. Class numbers are those of the nearest voxel.
    """

    old: tuple[int, ...]
    size: tuple[int, ...]
    area: bool = False

    @property
    def matrix(self) -> Matrix:
        ratio = np.array(self.old) / np.array(self.size)
        matrix = np.diag([*ratio, 1.0])
        matrix[:-1, -1] = (ratio - 1) / 2  # the outer edges of both grids coincide, not the centres of their corners
        return matrix

    def apply(self, array: Array) -> Array:
        import torch
        import torch.nn.functional as F

        if array.shape[1:] == self.size:
            return array
        values = torch.from_numpy(np.array(array, dtype=np.float32))[None]
        if not is_image(array):
            near = F.interpolate(values, size=self.size, mode="nearest-exact")
            return near[0].numpy().astype(array.dtype)
        if self.area:
            return np.asarray(F.interpolate(values, size=self.size, mode="area")[0].numpy())
        if len(self.size) == 2:
            smooth = F.interpolate(values, size=self.size, mode="bilinear", antialias=True, align_corners=False)
        else:
            smooth = F.interpolate(values, size=self.size, mode="trilinear", align_corners=False)
        return np.asarray(smooth[0].numpy())

    def reverse(self, shape: tuple[int, ...]) -> "Zoom":
        return Zoom(self.size, shape, self.area)


@dataclass(frozen=True, eq=False)
class Resampled:
    """Any affine change of the grid: images linearly, class numbers from the nearest voxel.

    As `SpatialResample` of MONAI, which a test compares, at a tenth of its time for small images.
    """

    matrix: Matrix
    size: tuple[int, ...]
    outside: Outside = "border"

    def apply(self, array: Array) -> Array:
        places = np.tensordot(self.matrix[:-1, :-1], np.indices(self.size, dtype=np.float64), 1)
        offset = self.matrix[:-1, -1].reshape(-1, *[1] * len(self.size))
        return sampled(array, places + offset, self.outside)

    def reverse(self, shape: tuple[int, ...]) -> "Resampled":
        return Resampled(np.linalg.inv(self.matrix).astype(np.float64), shape, self.outside)


def sampled(array: Array, places: npt.NDArray[np.float64], outside: Outside) -> Array:
    """Return ``[channels, *new]`` of an array at places ``[d, *new]``, in its own indices."""
    import torch
    import torch.nn.functional as F

    sides = np.array(array.shape[1:], dtype=np.float64).reshape(-1, *[1] * (places.ndim - 1))
    grid = np.moveaxis((places * 2 + 1) / sides - 1, 0, -1)[..., ::-1].astype(np.float32)  # torch wants x first
    values = F.grid_sample(
        torch.from_numpy(np.array(array, dtype=np.float32))[None],
        torch.from_numpy(np.ascontiguousarray(grid))[None],
        mode="bilinear" if is_image(array) else "nearest",
        padding_mode=outside,
        align_corners=False,
    )
    return np.asarray(values[0].numpy().astype(array.dtype))


def about_centre(linear: npt.NDArray[np.float64], shape: Sequence[int], shift: Sequence[float] | None = None) -> Matrix:
    """Return the matrix that turns and scales offsets from the grid's centre by `linear`, then shifts by voxels."""
    centre = (np.array(shape, dtype=np.float64) - 1) / 2
    matrix = np.eye(len(centre) + 1)
    matrix[:-1, :-1] = linear
    matrix[:-1, -1] = centre - linear @ centre + (0 if shift is None else np.array(shift))
    return matrix
