"""RT structure sets (PS3.3 A.19, C.8.8.6): closed contours in millimetres, drawn on the planes of their images.

A pixel belongs to a structure if its centre lies inside an odd number of the structure's contours in that plane, so that inner
contours are holes. A centre exactly on an edge belongs to the side with larger row and column numbers. Slices without
a contour stay empty: nothing is interpolated between planes.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from salus.client.data.dicom.picture import DicomImage
from salus.client.data.dicom.planes import Marked, Stack, drawn, stack_of
from salus.client.data.dicom.references import ELSEWHERE, by_instance
from salus.client.data.structures import Mask
from salus.client.data.targets import MAX_NAMES
from salus.common.errors import UnreadableImage

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
MAX_CONTOURS = 200_000
MAX_CONTOUR_BYTES = 2**24  # of the text of one contour: about 300 000 points
MAX_POINTS = 5_000_000
MAX_CROSSINGS = 2**25  # of one contour's edges with rows
MAX_DRAWN = 2**31  # pixels of all structures
FLAT = 0.2  # of the distance between slices, by which the points of one contour may leave its plane
LARGEST_MM = 1e5
Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


def structures_of(dataset: Dataset) -> dict[int, str]:
    """Return the names of the structures by their number; raises UnreadableImage for none, or too many."""
    found = {int(roi.ROINumber): str(roi.get("ROIName", "") or "") for roi in dataset.StructureSetROISequence}
    if not 0 < len(found) <= MAX_NAMES or not all(found.values()):
        raise UnreadableImage(
            "damaged", "a structure set without structures, with too many, or with one without a name"
        )
    return found


def read_contours(
    dataset: Dataset, slices: Sequence[DicomImage], wanted: Sequence[str], others: Collection[str] | None
) -> tuple[Mask, Stack]:
    """Return the structures on the planes of their images.

    Args:
        slices: the images, each one plane.
        wanted: names of the structures to use, in this order; empty for all, in the order of their numbers.
        others: UIDs of images that it may refer to beside these; None for any.

    Raises:
        UnreadableImage: damaged, too large, numbers that are not finite, contours that are not flat, or not where the image
            lies that they refer to.
    """
    if any(image.values.shape[0] != 1 for image in slices):
        raise UnreadableImage("unsupported", "a structure set on a multi-frame image")
    rows, columns = slices[0].values.shape[-2:]
    thickness = float(np.linalg.norm(slices[0].frame_step_mm))
    stack = stack_of([image.geometry for image in slices], rows, columns, thickness if len(slices) == 1 else 0.0)
    labels = structures_of(dataset)
    names = tuple(wanted) or tuple(dict.fromkeys(labels[number] for number in sorted(labels)))
    places = {name: number for number, name in enumerate(names, start=1)}
    known = by_instance(slices)
    planes: dict[tuple[int, int], Array] = {}
    areas = [0.0, 0.0]  # on slices, and beside all of them
    count = points = 0
    for roi in dataset.get("ROIContourSequence") or []:
        number = places.get(labels.get(int(roi.ReferencedROINumber), ""), 0)
        own: dict[int, Array] = {}
        for contour in (roi.get("ContourSequence") or []) if number else []:
            if str(contour.get("ContourGeometricType", "")) not in CLOSED:
                continue
            line = _line(contour, stack)
            count, points = count + 1, points + len(line)
            if count > MAX_CONTOURS or points > MAX_POINTS:
                raise UnreadableImage("too-large", "a structure set with too many contours or points")
            plane = _plane(contour, line, stack, known, others)
            areas[plane < 0] += area(line[:, 1:])
            if plane >= 0:
                inside = filled(line[:, 1:], rows, columns)
                own[plane] = own[plane] ^ inside if plane in own else inside
        for plane, pixels in own.items():  # structures of one name are one structure
            planes[number, plane] = planes.get((number, plane), np.False_) | pixels
        if len(planes) * rows * columns > MAX_DRAWN:
            raise UnreadableImage("too-large", "too many structures on a large image; choose some with --structures")
    marked = (Marked(number, plane, pixels) for (number, plane), pixels in planes.items())
    outside = areas[1] / sum(areas) if areas[1] else 0.0
    return drawn(stack, marked, names, outside), stack


def points_of(contour: Dataset) -> Float64:
    """Return a contour's points ``[points, 3]`` in millimetres, LPS; raises UnreadableImage for damaged or huge ones."""
    raw: Any = contour.get_item("ContourData")
    value = b"" if raw is None else raw.value
    if isinstance(value, bytes):
        if len(value) > MAX_CONTOUR_BYTES:
            raise UnreadableImage("too-large", "a contour with too many points")
        value = value.rstrip(b"\0 ").split(b"\\")
    numbers = np.array([float(one) for one in value], np.float64)
    if len(numbers) < 9 or len(numbers) % 3:
        raise UnreadableImage("damaged", "a contour of fewer than three points, or with a part of one")
    if not (np.abs(numbers) < LARGEST_MM).all():  # NaN and infinity included
        raise UnreadableImage("not-finite", "a contour with coordinates that are not finite or far too large")
    return numbers.reshape(-1, 3)


def _line(contour: Dataset, stack: Stack) -> Float64:
    """Return a contour's points ``[points, 3]`` as (place along the normal in mm, row, column)."""
    points = points_of(contour)
    there = np.linalg.inv(stack.affine) @ np.column_stack([points, np.ones(len(points))]).T
    return np.asarray(there.T[:, :3], np.float64)


def _plane(
    contour: Dataset, line: Float64, stack: Stack, known: Mapping[str, DicomImage], others: Collection[str] | None
) -> int:
    """Return the plane of a contour, -1 if it lies beside all of them."""
    if np.ptp(line[:, 0]) > FLAT * 2 * stack.reach_mm:
        raise UnreadableImage("annotation-geometry", "a contour that is not parallel to the slices of its image")
    place = float(line[:, 0].mean())
    referenced = [str(item.get("ReferencedSOPInstanceUID", "")) for item in contour.get("ContourImageSequence") or []]
    if len(referenced) == 1:
        image = known.get(referenced[0])
        if image is None and others is not None and referenced[0] not in others:
            raise ELSEWHERE
        where = None if image is None else image.geometry.position
        if where is not None and abs(stack.place_of(where) - place) > stack.reach_mm:
            raise UnreadableImage(
                "annotation-geometry", "a contour does not lie where the image lies that it refers to"
            )
    return stack.plane_at(place)


def filled(points: Float64, rows: int, columns: int) -> npt.NDArray[np.bool_]:
    """Return which pixel centres lie inside a polygon by the even-odd rule.

    Args:
        points: ``[points, 2]`` (row, column) of its corners, the centre of the first pixel being (0, 0).
    """
    start, end = points, np.roll(points, -1, axis=0)
    turned = start[:, 0] > end[:, 0]
    low, high = np.where(turned[:, None], end, start), np.where(turned[:, None], start, end)
    first = np.clip(np.ceil(low[:, 0]), 0, rows).astype(np.int64)
    last = np.clip(np.ceil(high[:, 0]), 0, rows).astype(np.int64)  # rows from `first` up to, not including, `last`
    counts = last - first
    total = int(counts.sum())
    if total > MAX_CROSSINGS:
        raise UnreadableImage("too-large", "a contour that crosses too many rows")
    edge = np.repeat(np.arange(len(points)), counts)
    row = first[edge] + np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    slope = (high[edge, 1] - low[edge, 1]) / (high[edge, 0] - low[edge, 0])
    crossing = low[edge, 1] + (row - low[edge, 0]) * slope
    column = np.clip(np.ceil(crossing), 0, columns).astype(np.int64)
    top, bottom = (int(row.min()), int(row.max()) + 1) if total else (0, 0)
    turns = np.zeros((bottom - top, columns + 1), np.int32)
    np.add.at(turns, (row - top, column), 1)
    inside = np.zeros((rows, columns), bool)
    inside[top:bottom] = np.cumsum(turns, axis=1)[:, :columns] & 1
    return inside


def area(points: Float64) -> float:
    """Return a polygon's area (the shoelace formula)."""
    row, column = points[:, 0], points[:, 1]
    return abs(float(row @ np.roll(column, -1) - column @ np.roll(row, -1))) / 2
