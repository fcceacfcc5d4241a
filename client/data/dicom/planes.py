"""Annotations that are given plane by plane, in millimetres in the patient, and brought onto an image's grid."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from salus.client.data.dicom.geometry import Geometry
from salus.client.data.grids import index_map, planes, regular, resampled, share_outside
from salus.client.data.structures import Mask
from salus.common.errors import UnreadableImage

MAX_MASK_VALUES = 2**28  # of all structures together
IN_LINE = 0.1  # of a pixel or of the distance between planes, by which a plane may lie off its place in a stack
Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stack:
    """Parallel planes with one pixel grid.

    Args:
        rows, columns: of each plane.
        places_mm: of the planes along their normal, increasing.
        reach_mm: what a plane covers on both sides.
        affine: ``[4, 4]`` from (place in mm, row, column) to millimetres, LPS.
    """

    rows: int
    columns: int
    places_mm: Float64
    reach_mm: float
    affine: Float64

    def place_of(self, position: Sequence[float]) -> float:
        """Return the place along the normal of a point in the patient."""
        return float((np.linalg.inv(self.affine) @ np.array([*position, 1.0]))[0])

    def plane_at(self, place_mm: float) -> int:
        """Return the number of the plane that covers a place, -1 if there is none."""
        return int(planes(self.places_mm, self.reach_mm)(np.array([place_mm]))[0])

    def only(self, plane: int) -> "Stack":
        """Return the stack of one of the planes."""
        return replace(self, places_mm=self.places_mm[plane : plane + 1])


def stack_of(geometries: Sequence[Geometry], rows: int, columns: int, thickness_mm: float) -> Stack:
    """Return the stack of some planes, one or several at each place.

    Args:
        thickness_mm: of a plane, where there is only one; else the smallest distance between planes.

    Raises:
        UnreadableImage: ``bad-geometry``; planes that are not parallel, or not in line.
    """
    first = geometries[0]
    axes = np.array([first.row_direction, first.column_direction])
    if any(
        not np.allclose([other.row_direction, other.column_direction], axes, atol=1e-3)
        or not np.allclose(other.spacing_mm, first.spacing_mm, rtol=1e-3)
        for other in geometries
    ):
        raise UnreadableImage("bad-geometry", "the planes of the annotation are not parallel, or differ in spacing")
    corners = np.array([_position(geometry) for geometry in geometries])
    along = corners @ first.normal
    order = np.argsort(along, kind="stable")
    steps = np.concatenate([[True], np.diff(along[order]) > 1e-3])
    places = along[order][steps]
    low, high = corners[order[0]], corners[order[-1]]
    span = float(along[order[-1]] - along[order[0]])
    slope = (high - low) / span if span > 1e-3 else first.normal
    off = corners - (low + np.outer(along - along[order[0]], slope))
    gap = float(np.diff(places).min()) if len(places) > 1 else thickness_mm
    if not gap > 0:
        raise UnreadableImage("bad-geometry", "the thickness of the annotation's only plane is unknown")
    if np.abs(off).max() > IN_LINE * min(*first.spacing_mm, gap):
        raise UnreadableImage("bad-geometry", "the planes of the annotation do not lie in line")
    if thickness_mm > 0 and len(places) > 1:
        gap = min(gap, thickness_mm)
    affine = np.eye(4)
    affine[:3, 0] = slope
    affine[:3, 1] = np.array(first.column_direction) * first.spacing_mm[0]
    affine[:3, 2] = np.array(first.row_direction) * first.spacing_mm[1]
    affine[:3, 3] = low - slope * along[order[0]]
    return Stack(rows, columns, places, gap / 2, affine)


def _position(geometry: Geometry) -> tuple[float, float, float]:
    if geometry.position is None:
        raise UnreadableImage("bad-geometry", "a plane of the annotation has no position in the patient")
    return geometry.position


@dataclass(frozen=True)
class Marked:
    """What an annotation marks in one plane.

    Args:
        number: of the structure, from 1.
        plane: number of the plane in its stack.
        pixels: ``[rows, columns]``, bool.
    """

    number: int
    plane: int
    pixels: Array


def drawn(stack: Stack, marked: Iterable[Marked], names: Sequence[str], outside: float = 0.0) -> Mask:
    """Return a mask on the grid of a stack: class numbers, or a channel for each structure where some overlap.

    Raises:
        UnreadableImage: ``too-large``; overlapping structures of a large stack.
    """
    shape = (len(stack.places_mm), stack.rows, stack.columns)
    numbers = np.zeros(shape, np.uint8 if len(names) < 256 else np.int16)
    channels: Array | None = None
    for part in marked:
        if channels is None:
            here = numbers[part.plane]
            taken = here[part.pixels]
            if not ((taken == 0) | (taken == part.number)).all():
                channels = _channels(numbers, len(names))
            else:
                here[part.pixels] = part.number
        if channels is not None:
            channels[part.number - 1, part.plane] |= part.pixels.astype(np.uint8)
    return Mask(numbers if channels is None else channels, tuple(names), outside)


def _channels(numbers: Array, count: int) -> Array:
    if numbers.size * count > MAX_MASK_VALUES:
        raise UnreadableImage("too-large", "structures overlap in a large image; choose some of them with --structures")
    return np.stack([numbers == number for number in range(1, count + 1)]).astype(np.uint8)


def placed(mask: Mask, stack: Stack, affine: Float64, shape: Sequence[int]) -> Mask:
    """Return a mask of a stack on an image's grid.

    Args:
        affine: of the image, from (z, y, x) to millimetres.
        shape: of the image, (z, y, x).

    Raises:
        UnreadableImage: ``mask-elsewhere``; image and annotation do not overlap.
    """
    matrix = index_map(affine, stack.affine)
    lookups = [planes(stack.places_mm, stack.reach_mm), regular(stack.rows), regular(stack.columns)]
    everywhere = np.ones((len(stack.places_mm), stack.rows, stack.columns), bool)
    if not resampled(everywhere, matrix, shape, lookups).any():
        raise UnreadableImage("mask-elsewhere", "the annotation and its image do not overlap in space")
    if mask.values.ndim == 3:
        values = resampled(mask.values, matrix, shape, lookups)
        together = mask.values
    else:
        if len(mask.values) * int(np.prod(shape)) > MAX_MASK_VALUES:
            raise UnreadableImage("too-large", "structures overlap in a large image; choose some with --structures")
        values = np.stack([resampled(channel, matrix, shape, lookups) for channel in mask.values])
        together = mask.values.max(axis=0)
    outside = max(mask.outside, share_outside(together, matrix, shape, stack.places_mm))
    if outside == 1.0:
        raise UnreadableImage("mask-elsewhere", "everything that the annotation marks lies outside its image")
    return Mask(values, mask.names, outside)
