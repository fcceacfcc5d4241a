"""Which planes lie on one line, and which of them are at one place of it, whatever the rounding of their coordinates."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from salus.client.data.dicom.runs import Plane

Float64 = npt.NDArray[np.float64]
BESIDE_MM, BESIDE_PIXELS = 0.1, 0.25  # by which a corner may lie beside its line, whichever is more
FINEST_MM, COARSEST_MM = 1e-3, 0.5  # of the tolerance along the normal
CLEAR = 4.0  # times the tolerance that the distance between places must have


def lines_of(family: Sequence[Plane]) -> Iterator[list[Plane]]:
    """Yield the planes whose corners lie on one line; of some directions the one on which most do."""
    first = family[0].geometry
    corners = np.array([plane.geometry.position for plane in family], np.float64)
    along = corners @ first.normal
    beside = corners @ np.array([first.row_direction, first.column_direction]).T
    reach = max(BESIDE_MM, BESIDE_PIXELS * min(first.spacing_mm))
    choices = [_clusters(beside - np.outer(along, slope), reach) for slope in _slopes(along, beside)]
    best = max(choices, key=lambda clusters: int(np.bincount(clusters).max()))
    for number in range(int(best.max()) + 1):
        yield [plane for plane, mine in zip(family, best.tolist(), strict=True) if mine == number]


def _slopes(along: Float64, beside: Float64) -> Iterator[Float64]:
    """Yield directions in which corners may run: along the normal, or as neighbours or planes far from each other say."""
    yield np.zeros(2)
    order = np.argsort(along, kind="stable")
    for apart in sorted({1, len(order) // 2, len(order) - 1} - {0}):
        low, high = order[:-apart], order[apart:]
        far = along[high] - along[low] > COARSEST_MM
        if far.any():
            slopes = (beside[high] - beside[low])[far] / (along[high] - along[low])[far, None]
            yield np.asarray(np.median(slopes, axis=0), np.float64)


def _clusters(points: Float64, reach: float) -> npt.NDArray[np.int64]:
    """Return the number of each point's cluster; clusters are more than `reach` apart along one of the axes."""
    numbers = np.zeros(len(points), np.int64)
    for axis in (0, 1, 0):
        parts = np.zeros(len(points), np.int64)
        for number in range(int(numbers.max()) + 1):
            mine = np.flatnonzero(numbers == number)
            order = mine[np.argsort(points[mine, axis], kind="stable")]
            steps = np.concatenate([[True], np.diff(points[order, axis]) > reach])
            parts[order] = np.cumsum(steps) + parts.max()
        numbers = parts - 1
    return numbers


def places_of(line: Sequence[Plane]) -> list[list[Plane]]:
    """Return the planes of each place, along the normal."""
    normal = line[0].geometry.normal
    along = np.array([normal @ np.array(plane.geometry.position) for plane in line])
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    starts = np.concatenate([[True], gaps > tolerance_mm(gaps, min(line[0].geometry.spacing_mm))])
    places: list[list[Plane]] = []
    for index, new in zip(order.tolist(), starts.tolist(), strict=True):
        if new:
            places.append([])
        places[-1].append(line[index])
    return places


def tolerance_mm(gaps: Float64, pixel_mm: float) -> float:
    """Return the distance up to which neighbours are at one place: the largest one that is clearly below all larger ones.

    Args:
        gaps: between positions in order, in millimetres.
        pixel_mm: the smaller side of a pixel; chained neighbours may spread over a part of it, as slices never do.
    """
    sizes = np.unique(gaps)
    for size in sizes[(sizes > FINEST_MM) & (sizes <= COARSEST_MM)][::-1].tolist():
        larger = sizes[sizes > size * (1 + 1e-9)]
        spread = max(2 * size, BESIDE_PIXELS * pixel_mm)
        if len(larger) and larger[0] >= CLEAR * size and _widest(gaps, size) <= min(spread, larger[0] / 2):
            return float(size)
    return FINEST_MM


def _widest(gaps: Float64, size: float) -> float:
    """Return the extent of the widest place if neighbours up to `size` apart are at one place."""
    widest = width = 0.0
    for gap in gaps.tolist():
        width = width + gap if gap <= size * (1 + 1e-9) else 0.0
        widest = max(widest, width)
    return widest
