"""Brings an annotation from its own grid onto an image's, by where both lie in the patient; never by index.

Nearest neighbour: a voxel of the result has the class of the annotation's voxel that contains its centre, and 0 outside.
"""

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Lookup = Callable[[Float64], Int64]  # from a continuous index along one axis to a place on it, -1 outside

SAME_GRID = 0.02  # voxels by which two grids may differ anywhere and still be the same; files keep affines as float32
TIE = 1e-6  # a centre exactly between two voxels belongs to the next one, whatever the rounding of the affines
SEPARABLE = 1e-3


def index_map(image: Float64, annotation: Float64) -> Float64:
    """Return the 4 x 4 matrix from an index on the image's grid to one on the annotation's, both in the order z, y, x."""
    return np.linalg.solve(annotation, image).astype(np.float64)


def same_grid(shape: Sequence[int], matrix: Float64) -> bool:
    """Return whether an index map is the identity at every corner of a grid."""
    ends = np.array([[z, y, x, 1.0] for z in (0, shape[0] - 1) for y in (0, shape[1] - 1) for x in (0, shape[2] - 1)])
    return bool(np.abs(ends @ matrix.T - ends).max() <= SAME_GRID)


def regular(count: int) -> Lookup:
    """Return the lookup of an axis with `count` voxels at the places 0, 1, 2 ..."""

    def look(places: Float64) -> Int64:
        nearest = np.floor(places + (0.5 + TIE))
        return np.where((nearest >= 0) & (nearest < count), nearest, -1).astype(np.int64)

    return look


def planes(places: Float64, reach: float) -> Lookup:
    """Return the lookup of an axis with planes at these increasing places, each of which covers `reach` on both sides."""
    middles = (places[1:] + places[:-1]) / 2

    def look(wanted: Float64) -> Int64:
        nearest = np.searchsorted(middles, wanted + TIE * reach, side="right")
        return np.where(np.abs(places[nearest] - wanted) <= reach * (1 + TIE), nearest, -1).astype(np.int64)

    return look


def resampled(values: Array, matrix: Float64, shape: Sequence[int], lookups: Sequence[Lookup] = ()) -> Array:
    """Return an annotation on the image's grid.

    Args:
        values: ``[planes, rows, columns]`` on the annotation's grid.
        matrix: `index_map`.
        shape: of the image.
        lookups: of the annotation's axes; regular ones if there are none.
    """
    looks = lookups or [regular(side) for side in values.shape]
    axes = _axes(matrix, shape)
    if axes is not None:
        return _along_axes(values, matrix, shape, looks, axes)
    result = np.zeros(tuple(shape), values.dtype)
    y, x = np.meshgrid(np.arange(shape[1], dtype=np.float64), np.arange(shape[2], dtype=np.float64), indexing="ij")
    for z in range(shape[0]):  # never the coordinates of the whole volume at once
        found = [
            looks[axis](matrix[axis, 0] * z + matrix[axis, 1] * y + matrix[axis, 2] * x + matrix[axis, 3])
            for axis in range(3)
        ]
        inside = (found[0] >= 0) & (found[1] >= 0) & (found[2] >= 0)
        result[z][inside] = values[found[0][inside], found[1][inside], found[2][inside]]
    return result


def _axes(matrix: Float64, shape: Sequence[int]) -> tuple[int, ...] | None:
    """Return, for each axis of the annotation, the only axis of the image on which it depends; None for oblique grids."""
    reach = np.abs(matrix[:3, :3]) * (np.array(shape) - 1)
    for order in permutations(range(3)):
        others = reach.copy()
        others[range(3), order] = 0
        if others.max() <= SEPARABLE:
            return order
    return None


def _along_axes(
    values: Array, matrix: Float64, shape: Sequence[int], looks: Sequence[Lookup], axes: tuple[int, ...]
) -> Array:
    picked = values
    for axis, image_axis in enumerate(axes):
        wanted = matrix[axis, image_axis] * np.arange(shape[image_axis], dtype=np.float64) + matrix[axis, 3]
        found = looks[axis](wanted)
        picked = np.take(picked, np.maximum(found, 0), axis=axis)
        lost = np.moveaxis(picked, axis, 0)
        lost[found < 0] = 0
    return np.ascontiguousarray(picked.transpose(np.argsort(axes)))


def share_outside(values: Array, matrix: Float64, shape: Sequence[int], places: Float64 | None = None) -> float:
    """Return the share of the annotated voxels whose centre lies outside the image.

    Args:
        values: as in `resampled`; everything but 0 counts.
        places: of the planes along the annotation's first axis; None for 0, 1, 2 ...
    """
    back = np.linalg.inv(matrix)
    total = lost = 0
    for plane, part in enumerate(values):
        rows, columns = np.nonzero(part)
        if not len(rows):
            continue
        at = np.stack(
            [np.full(len(rows), plane if places is None else places[plane]), rows, columns, np.ones(len(rows))]
        )
        there = (back @ at)[:3]
        inside = (there >= -0.5 - SAME_GRID) & (there < np.array(shape)[:, None] - 0.5 + SAME_GRID)
        total += len(rows)
        lost += int((~inside.all(axis=0)).sum())
    return lost / total if total else 0.0
