"""A series of slices, or one multi-frame file, to a volume in one canonical orientation.

The result is ``[slices, rows, columns]`` with the three axes along +z (to the head), +y (to the back) and +x (to the
left), the nearest right-angled orientation to the scanner's, so that volumes from all vendors lie alike.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from salus.client.data.dicom.display import Window, show
from salus.client.data.dicom.picture import DicomImage
from salus.client.data.records import FloatArray
from salus.common.errors import UnreadableImage

Float64 = npt.NDArray[np.float64]

SAME_PLACE_MM = 1e-3
WHOLE_TOLERANCE = 0.1
SPACING_TOLERANCE = 0.05  # relative; beyond it slices count as unevenly spaced and are interpolated
LARGEST_GAP = 3.0  # times the usual spacing; beyond it slices are missing


@dataclass(frozen=True)
class Volume:
    """A volume with its spacing along (z, y, x) in millimetres and its affine.

    Args:
        values: ``[z, y, x]``, 0 .. 1.
        spacing_mm: along (z, y, x); between slices the perpendicular distance.
        affine: 4 x 4, from (x, y, z) index to LPS millimetres. A tilted gantry shows as shear, never as wrong places.
    """

    values: FloatArray
    spacing_mm: tuple[float, float, float]
    affine: npt.NDArray[np.float64]


def stack(slices: Sequence[DicomImage]) -> Volume:
    """Sort slices by position along the normal and stack them; a single multi-frame file keeps its frame order.

    Unevenly spaced slices are interpolated linearly to the usual spacing, their median.

    Args:
        slices: of one volume, as `grouping` finds them.

    Raises:
        UnreadableImage: slices of different size, orientation or place, missing or repeated slices, or colour.
    """
    first = slices[0]
    if any(image.values.ndim != 3 for image in slices):
        raise UnreadableImage("colour-volume", "a volume of colour slices is not supported")
    if len(slices) == 1:
        if first.values.shape[0] == 1:
            raise UnreadableImage("single-slice", "one slice is not a volume")
        return _canonical(
            first.values, first, np.array(first.frame_step_mm), first.geometry.position or (0.0, 0.0, 0.0)
        )
    if any(image.values.shape[0] != 1 for image in slices):
        raise UnreadableImage("mixed-series", "a series mixes single slices and multi-frame files")
    _check_alike(slices)
    normal = first.geometry.normal
    placed = sorted(slices, key=lambda image: float(np.dot(normal, _position(image))))
    places = np.array([float(np.dot(normal, _position(image))) for image in placed])
    gaps = np.diff(places)
    usual = float(np.median(gaps))
    if gaps.min() <= SAME_PLACE_MM:
        raise UnreadableImage("uneven-slices", "two slices of one volume lie at the same place")
    times = gaps / _expected(gaps, np.array([image.thickness_mm for image in placed]))
    lost = (times > 1.5) & (np.abs(times - times.round()) < WHOLE_TOLERANCE)  # twice the distance: a slice is missing
    if times.max() > LARGEST_GAP or lost.any():
        where = ", ".join(
            f"{places[gap]:.1f} and {places[gap + 1]:.1f}" for gap in np.flatnonzero(lost | (times > LARGEST_GAP))[:3]
        )
        raise UnreadableImage("uneven-slices", f"slices are missing between the places {where} mm along the normal")
    values = _one_scale(placed)
    whole: Float64 = np.array(_position(placed[-1])) - np.array(_position(placed[0]))
    if gaps.max() - gaps.min() > SPACING_TOLERANCE * usual:
        values = _evenly(values, places, usual)
        whole = whole * ((len(values) - 1) * usual / (places[-1] - places[0]))
    return _canonical(values, placed[0], whole / (len(values) - 1), _position(placed[0]))


def _expected(gaps: Float64, thickness_mm: Float64) -> Float64:
    """Return the distance that each pair of neighbours should have: the usual one, or in proportion to a changing thickness.

    A scanner that takes thicker slices also takes them further apart: 2.5 mm at the base of a skull and 5 mm above is one whole
    volume (dcm2niix, issue 22), while twice the distance between slices of one thickness is a missing slice.
    """
    changes = float(np.ptp(thickness_mm)) > SPACING_TOLERANCE * float(thickness_mm.max())
    if not changes or not (thickness_mm > 0).all():
        return np.full(len(gaps), float(np.quantile(gaps, 0.5, method="lower")))  # of two, the larger may lack a slice
    thicker = np.maximum(thickness_mm[1:], thickness_mm[:-1])
    return thicker * float(np.median(gaps / thicker))


def _one_scale(slices: Sequence[DicomImage]) -> FloatArray:
    """Return all slices under one window: grey values must mean the same in every slice of a volume.

    Where windows differ they share one, see `_shared`; a slice without a window says nothing.
    """
    first = slices[0]
    if len({image.inverted for image in slices}) != 1:
        raise UnreadableImage("mixed-series", "slices of one series differ in PhotometricInterpretation")
    windows = [image.window for image in slices if image.window.function != "STRETCH"]
    if len(windows) == len(slices) and len(set(windows)) == 1:
        return np.concatenate([image.values for image in slices])
    return show(np.concatenate([image.rescaled for image in slices]), _shared(windows), inverted=first.inverted)


def _shared(windows: Sequence[Window]) -> Window:
    """Return one window for all slices: of the most frequent function the median, or the most frequent table."""
    if not windows:
        return Window()
    function, _ = Counter(window.function for window in windows).most_common(1)[0]
    same = [window for window in windows if window.function == function]
    if function == "TABLE":
        return Counter(same).most_common(1)[0][0]
    centre = float(np.median([window.centre for window in same]))
    return Window(function, centre, float(np.median([window.width for window in same])))


def _evenly(values: FloatArray, places: npt.NDArray[np.float64], step_mm: float) -> FloatArray:
    """Return slices at even distances from the first one, interpolated linearly between their neighbours."""
    count = int(np.floor((places[-1] - places[0]) / step_mm + 1e-6)) + 1
    wanted = places[0] + step_mm * np.arange(count)
    below = np.clip(np.searchsorted(places, wanted, side="right") - 1, 0, len(places) - 2)
    share = ((wanted - places[below]) / (places[below + 1] - places[below])).astype(np.float32)[:, None, None]
    mixed: FloatArray = values[below] * (1 - share) + values[below + 1] * share
    return mixed


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


def _canonical(values: FloatArray, image: DicomImage, step_mm: Float64, origin: tuple[float, float, float]) -> Volume:
    """Reorder and flip axes so that they run along +z, +y, +x as closely as right angles allow."""
    geometry = image.geometry
    # Column j of `axes`: the LPS step for one index along array axis j (slices, rows, columns).
    axes = np.stack(
        [
            step_mm,
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
    lengths = np.array([abs(float(step_mm @ geometry.normal)), *geometry.spacing_mm])
    x_mm, y_mm, z_mm = (float(lengths[axis]) for axis in order)
    return Volume(np.ascontiguousarray(result), (z_mm, y_mm, x_mm), affine)


def _closest_axes(axes: npt.NDArray[np.float64]) -> list[int]:
    """Return for x, y, z the array axis closest to it, each used once; the clearest match is assigned first."""
    direction = np.abs(axes / np.linalg.norm(axes, axis=0))
    order = [-1, -1, -1]
    for _ in range(3):
        world, axis = np.unravel_index(int(np.argmax(direction)), direction.shape)
        order[int(world)] = int(axis)
        direction[world, :] = -1
        direction[:, axis] = -1
    return order
