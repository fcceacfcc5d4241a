"""A series of slices, or one multi-frame file, to a volume in one canonical orientation.

The result is ``[slices, rows, columns]`` with the three axes along +z (to the head), +y (to the back) and +x (to the
left), the nearest right-angled orientation to the scanner's, so that volumes from all vendors lie alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from salus.client.data.dicom import DicomImage
from salus.client.data.records import FloatArray
from salus.common.errors import UnreadableImage

SPACING_TOLERANCE = 0.05  # relative; a gap larger than this means that slices are missing


@dataclass(frozen=True)
class Volume:
    """A volume with its spacing along (z, y, x) in millimetres and its affine.

    Args:
        values: ``[z, y, x]``, 0 .. 1.
        affine: 4 x 4, from (x, y, z) index to LPS millimetres, columns in index order x, y, z.
    """

    values: FloatArray
    spacing_mm: tuple[float, float, float]
    affine: npt.NDArray[np.float64]


def stack(slices: Sequence[DicomImage]) -> Volume:
    """Sort slices by their place along the normal and stack them; a single multi-frame file is taken in its frame order.

    Raises:
        UnreadableImage: slices of different size, orientation or place, missing slices, or colour.
    """
    first = slices[0]
    if any(image.values.ndim != 3 for image in slices):
        raise UnreadableImage("colour-volume", "a volume of colour slices is not supported")
    if len(slices) == 1:
        return _canonical(first.values, first, first.slice_spacing_mm, first.geometry.position or (0.0, 0.0, 0.0))
    _check_alike(slices)
    normal = first.geometry.normal
    placed = sorted(slices, key=lambda image: float(np.dot(normal, _position(image))))
    places = np.array([float(np.dot(normal, _position(image))) for image in placed])
    gaps = np.diff(places)
    step = float(np.median(gaps))
    if step <= 0 or np.abs(gaps - step).max() > SPACING_TOLERANCE * step:
        raise UnreadableImage("uneven-slices", "slices are missing, repeated or unevenly spaced")
    values = np.concatenate([image.values for image in placed])
    return _canonical(values, placed[0], step, _position(placed[0]))


def _position(image: DicomImage) -> tuple[float, float, float]:
    if image.geometry.position is None:
        raise UnreadableImage("no-position", "a slice has no ImagePositionPatient")
    return image.geometry.position


def _check_alike(slices: Sequence[DicomImage]) -> None:
    first = slices[0]
    for image in slices[1:]:
        if image.values.shape != first.values.shape:
            raise UnreadableImage("mixed-series", "slices of one series differ in size")
        here = [*image.geometry.row_direction, *image.geometry.column_direction]
        there = [*first.geometry.row_direction, *first.geometry.column_direction]
        if not np.allclose(here, there, atol=1e-3):
            raise UnreadableImage("mixed-series", "slices of one series differ in orientation")


def _canonical(values: FloatArray, image: DicomImage, step_mm: float, origin: tuple[float, float, float]) -> Volume:
    """Reorder and flip axes so that they run along +z, +y, +x as closely as right angles allow."""
    geometry = image.geometry
    # Column j of `axes`: the LPS step for one index along array axis j (slices, rows, columns).
    axes = np.stack(
        [
            geometry.normal * step_mm,
            np.array(geometry.column_direction) * geometry.spacing_mm[0],
            np.array(geometry.row_direction) * geometry.spacing_mm[1],
        ],
        axis=1,
    )
    order = _closest_axes(axes)  # order[k] = array axis that lies along LPS direction k (x, y, z)
    corner = np.array(origin, dtype=np.float64)
    result = np.transpose(values, (order[2], order[1], order[0]))
    columns = []
    for direction in range(3):
        column = axes[:, order[direction]].copy()
        if column[direction] < 0:
            array_axis = 2 - direction
            corner = corner + column * (result.shape[array_axis] - 1)
            column = -column
            result = np.flip(result, array_axis)
        columns.append(column)
    affine = np.eye(4)
    affine[:3, :3] = np.stack(columns, axis=1)
    affine[:3, 3] = corner
    x_mm, y_mm, z_mm = (float(np.linalg.norm(column)) for column in columns)
    return Volume(np.ascontiguousarray(result), (z_mm, y_mm, x_mm), affine)


def _closest_axes(axes: npt.NDArray[np.float64]) -> list[int]:
    """Return for x, y, z the array axis closest to it, each used once; the clearest one is settled first."""
    direction = np.abs(axes / np.linalg.norm(axes, axis=0))
    order = [-1, -1, -1]
    for _ in range(3):
        world, axis = np.unravel_index(int(np.argmax(direction)), direction.shape)
        order[int(world)] = int(axis)
        direction[world, :] = -1
        direction[:, axis] = -1
    return order
