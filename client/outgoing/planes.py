"""A mask on the grid of a volume, brought back to the planes of the images that the volume was made of.

A volume's axes run up, back and left, and a scanner's do not: planes are turned, mirrored and ordered otherwise. Here each pixel
of a source image is looked up by its position in the patient, so no rule about the order of axes is needed.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from salus.client.data.dicom.instances import Instance, check_one_series
from salus.common.errors import UnreadableImage
from salus.common.examples import Affine, Array

IN_PLANE_TOLERANCE = 0.25  # of a pixel, at the far edge too; directions are given with few digits
BETWEEN_TOLERANCE = 0.4  # of the distance between slices; they may be spaced unevenly within what a volume allows
SPACING_TOLERANCE = 0.01  # relative; within it slices count as evenly spaced


def in_order(instances: Sequence[Instance]) -> list[Instance]:
    """Return the slices of a series in order of their position along the normal.

    Raises:
        UnreadableImage: no position, more than one series or orientation, several slices at one place, a missing slice, or
            uneven spacing.
    """
    check_one_series(instances)
    first = instances[0]
    if any(not instance.placed or instance.frames != 1 for instance in instances):
        raise UnreadableImage("no-position", "the images have no position in the patient, or several frames")
    if any(not np.allclose(instance.orientation, first.orientation, atol=1e-3) for instance in instances):
        raise UnreadableImage("mixed-series", "the slices differ in orientation")
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    ordered = sorted(instances, key=lambda instance: float(normal @ np.array(instance.position)))
    _check_even(np.array([float(normal @ np.array(instance.position)) for instance in ordered]))
    return ordered


def _check_even(places: npt.NDArray[np.float64]) -> None:
    if len(places) < 3:
        return  # one gap is even
    gaps = np.diff(places)
    usual = float(np.median(gaps))
    if gaps.min() <= 1e-3:
        raise UnreadableImage("repeated-slice", "two slices are at the same place")
    if gaps.max() > 1.5 * usual:
        number = int(np.argmax(gaps))
        raise UnreadableImage(
            "missing-slice", f"a gap of {gaps[number]:.2f} mm after slice {number + 1}, not {usual:.2f} mm"
        )
    if np.abs(gaps - usual).max() > SPACING_TOLERANCE * usual:
        raise UnreadableImage("uneven-spacing", f"slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart")


def planes_of(mask: Array, affine: Affine, instances: Sequence[Instance]) -> Array:
    """Return a mask's planes on the pixels of these instances, in their order.

    Args:
        mask: ``[z, y, x]``.
        affine: ``[4, 4]`` from an index (z, y, x) to millimetres, LPS.

    Returns:
        ``[instances, rows, columns]``, the same numbers.

    Raises:
        UnreadableImage: an image whose pixels are not on the mask's grid.
    """
    inverse: Affine = np.linalg.inv(affine).astype(np.float64)
    planes = np.empty((len(instances), instances[0].rows, instances[0].columns), mask.dtype)
    for plane, instance in zip(planes, instances, strict=True):
        plane[...] = mask[_places(mask.shape, inverse, instance)]
    return planes


def _places(shape: tuple[int, ...], inverse: Affine, instance: Instance) -> tuple[Array, ...]:
    """Return for each axis of the mask the index of every pixel of an image, broadcast over rows and columns."""
    along_row, along_column = np.array(instance.orientation[:3]), np.array(instance.orientation[3:])
    corner = inverse @ np.array([*instance.position, 1.0])
    steps = inverse[:3, :3] @ np.stack(
        [along_column * instance.spacing_mm[0], along_row * instance.spacing_mm[1]], axis=1
    )
    whole = steps.round()
    rows, columns = np.arange(instance.rows)[:, None], np.arange(instance.columns)[None, :]
    reach = np.array([instance.rows, instance.columns])
    if np.abs((steps - whole) * reach).max() > IN_PLANE_TOLERANCE or np.abs(whole).sum() != 2:
        raise UnreadableImage("other-grid", "an image's pixels are not on the mask's grid")
    indices = []
    for axis in range(3):
        start = round(float(corner[axis]))
        moves = bool(whole[axis].any())
        index = start + (whole[axis, 0] * rows + whole[axis, 1] * columns).astype(np.int64)
        off = abs(float(corner[axis]) - start)
        if off > (IN_PLANE_TOLERANCE if moves else BETWEEN_TOLERANCE) or index.min() < 0 or index.max() >= shape[axis]:
            raise UnreadableImage("other-grid", "an image's pixels are not on the mask's grid")
        indices.append(index if moves else np.full((1, 1), start))
    return tuple(indices)
