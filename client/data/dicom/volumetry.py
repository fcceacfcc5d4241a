"""Volumes of segmentations and structure sets in millilitres, from the places of their planes.

    volume = area of what is marked in each plane x distance of the planes

The distance comes from the positions of all planes of the object. Planes in which nothing is marked are often left out, so it is
the smallest distance between neighbours; the spacing that the header states is used only where it divides all distances, and a
thickness only for a single plane. Where this does not decide, the object is refused. Source: QIICR/dcmqi#89 (a thickness never
stands for a distance); contours by the shoelace formula and the even-odd rule of `contours`.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from salus.client.data.dicom.contours import CLOSED, MAX_CONTOURS, MAX_POINTS, area, points_of, structures_of
from salus.client.data.dicom.numbers import number_of
from salus.client.data.dicom.places import tolerance_mm
from salus.client.data.dicom.references import functional_group
from salus.client.data.dicom.segmentation import read_segmentation
from salus.client.data.structures import volumes
from salus.common.errors import UnreadableImage

Float64 = npt.NDArray[np.float64]
SAME = 0.05  # relative; by which equal distances may differ
SPARSE = 3.0  # times the thickness, beyond which two planes alone do not say how far neighbours are apart
PARALLEL = 1e-2  # of the normals of contours
FLAT_MM = 1.0  # by which the points of a contour may leave their plane
UNKNOWN = UnreadableImage("bad-geometry", "the distance between the planes of the annotation is unknown")
UNEVEN = UnreadableImage(
    "bad-geometry", "the planes of the annotation are at different distances; use it with its images"
)


def segment_volumes(dataset: Dataset) -> dict[str, float]:
    """Return the volume of each segment by its label, 0 for one that marks nothing; segments of one label are one structure.

    Raises:
        UnreadableImage: as `segmentation.read_segmentation`, and ``bad-geometry`` if the distance of its planes is unknown.
    """
    mask, stack = read_segmentation(dataset, (), (), None)
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or [Dataset()]
    measures = functional_group(dataset, groups[0], "PixelMeasuresSequence")
    stated, thickness = (abs(number_of(measures, name) or 0.0) for name in ("SpacingBetweenSlices", "SliceThickness"))
    rows_mm, columns_mm = np.linalg.norm(stack.affine[:3, 1:3], axis=0)
    voxel_ml = float(rows_mm * columns_mm) * distance_mm(stack.places_mm, stated, thickness) / 1000.0
    return volumes(mask.values, mask.names, voxel_ml, mask.dimensions)


def distance_mm(places: Float64, stated: float, thickness: float) -> float:
    """Return the distance between neighbouring planes.

    Args:
        places: of the planes along their normal, increasing.
        stated: SpacingBetweenSlices, 0 if it is not stated.
        thickness: of a plane, 0 if it is not stated.

    Raises:
        UnreadableImage: ``bad-geometry``.
    """
    gaps = np.diff(places)
    if not len(gaps):
        # Where there is only one slice, writers put arbitrary values into the spacing.
        if found := thickness or stated:
            return found
        raise UNKNOWN
    smallest = float(gaps.min())
    equal = gaps <= smallest * (1 + SAME)
    usual = float(np.median(gaps[equal]))
    larger = ~equal & (gaps < 3 * usual)
    if (larger[1:] & larger[:-1] & (np.abs(np.diff(gaps)) < SAME * smallest)).any():
        raise UNEVEN  # two equal larger ones after each other are no planes left out
    if equal.sum() > 1:
        return usual
    times = gaps / stated if stated else np.full(len(gaps), 0.5)
    if (times > 1 - SAME).all() and (np.abs(times - times.round()) <= SAME).all():
        return stated
    if thickness and usual > SPARSE * thickness:
        raise UNKNOWN
    return usual


def contour_volumes(dataset: Dataset) -> dict[str, float]:
    """Return the volume of each structure by its name, from its closed contours alone; 0 for one without any.

    Raises:
        UnreadableImage: ``no-contours``; ``annotation-geometry`` for contours that are not flat and parallel; and as
            `distance_mm` and `contours.points_of`.
    """
    labels = structures_of(dataset)
    lines: dict[str, list[Float64]] = {name: [] for name in labels.values()}
    slabs: list[float] = []
    count = total = 0
    for roi in dataset.get("ROIContourSequence") or []:
        name = labels.get(int(roi.ReferencedROINumber))
        for contour in (roi.get("ContourSequence") or []) if name else []:
            if str(contour.get("ContourGeometricType", "")) not in CLOSED:
                continue
            points = points_of(contour)
            count, total = count + 1, total + len(points)
            if count > MAX_CONTOURS or total > MAX_POINTS:
                raise UnreadableImage("too-large", "a structure set with too many contours or points")
            lines[str(name)].append(points)
            slabs.append(abs(number_of(contour, "ContourSlabThickness") or 0.0))
    every = [points for mine in lines.values() for points in mine]
    if not every:
        raise UnreadableImage("no-contours", "a structure set whose structures have no closed contours")
    normal = _normal(every)
    places = _places(every, normal)
    distance = distance_mm(places, 0.0, max(slabs))
    across = np.linalg.svd(normal[None])[2][1:]  # two directions in the planes
    found: dict[str, float] = {}
    for name, mine in lines.items():
        planes: dict[int, list[Float64]] = defaultdict(list)
        for points in mine:
            planes[int(np.argmin(np.abs(places - float((points @ normal).mean()))))].append(points @ across.T)
        found[name] = sum(map(_marked, planes.values())) * distance / 1000.0
    return found


def _normal(lines: Sequence[Float64]) -> Float64:
    """Return the common normal of some contours (Newell's method on the largest one)."""
    largest = max(lines, key=lambda points: float(np.linalg.norm(_newell(points))))
    normal = _newell(largest)
    length = float(np.linalg.norm(normal))
    if not length > 0:
        raise UnreadableImage("annotation-geometry", "contours without an area")
    unit: Float64 = normal / length
    for points in lines:
        mine = _newell(points)
        size = float(np.linalg.norm(mine))
        slanted = size > 1.0 and float(np.linalg.norm(np.cross(mine / size, unit))) > PARALLEL
        if slanted or float(np.ptp(points @ unit)) > FLAT_MM:
            raise UnreadableImage("annotation-geometry", "contours that are not flat and parallel to each other")
    return unit


def _newell(points: Float64) -> Float64:
    moved = points - points[0]
    crossed: Float64 = np.cross(moved, np.roll(moved, -1, axis=0)).sum(axis=0)
    return crossed


def _places(lines: Sequence[Float64], normal: Float64) -> Float64:
    """Return the places of the planes along their normal, increasing."""
    along = np.sort([float((points @ normal).mean()) for points in lines])
    size = tolerance_mm(np.diff(along), 1.0)
    starts = np.concatenate([[True], np.diff(along) > size])
    return np.array([part.mean() for part in np.split(along, np.flatnonzero(starts)[1:])])


def _marked(polygons: Sequence[Float64]) -> float:
    """Return the area inside an odd number of polygons that do not cross each other."""
    total = 0.0
    for number, points in enumerate(polygons):
        depth = sum(_inside(points[0], other) for index, other in enumerate(polygons) if index != number)
        total += area(points) * (-1 if depth % 2 else 1)
    return total


def _inside(point: Float64, polygon: Float64) -> bool:
    start, end = polygon, np.roll(polygon, -1, axis=0)
    spans = (start[:, 1] > point[1]) != (end[:, 1] > point[1])
    rise = np.where(spans, end[:, 1] - start[:, 1], 1.0)
    crossing = start[:, 0] + (point[1] - start[:, 1]) * (end[:, 0] - start[:, 0]) / rise
    return bool((spans & (crossing > point[0])).sum() % 2)
