"""From the images of a series to volumes: what lies together, at which places, and what varies there.

Images that differ in size, pixel spacing, orientation or polarity form families; those of a family whose corners lie on one
straight line form a line, which may be oblique to the slices (a tilted gantry). Along a line, positions within a tolerance are
one place; it is found from the distances themselves, so that rounded coordinates do no harm. `visits` then tells the images of
one place apart. An image that fits nowhere is refused by name, and costs nothing else.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from salus.client.data.dicom.picture import DicomImage
from salus.client.data.dicom.visits import Plane, Refused, Run, runs_of

Float64 = npt.NDArray[np.float64]
SAME_ANGLE = 2e-3  # of the components of unit vectors
SAME_SPACING = 1e-3  # relative
MAX_FAMILIES = 100
BESIDE_MM, BESIDE_PIXELS = 0.1, 0.25  # by which a corner may lie beside its line, whichever is more
FINEST_MM, COARSEST_MM = 1e-3, 0.5  # of the tolerance along the normal
CLEAR = 4.0  # times the tolerance that the distance between places must have
FAR = 3.0  # times the usual distance; a single slice further away does not belong to the volume
NO_POSITION = ("no-position", "a slice without ImagePositionPatient belongs to no volume")
COLOUR = ("colour-volume", "a volume of colour slices is not supported")
SINGLE = ("single-slice", "one slice is not a volume")
APART = ("odd-slice", "a single slice far from the others of its series")
INCOMPLETE = ("incomplete-volume", "its volume lacks places that another volume of its series has")


@dataclass(frozen=True)
class Grouping:
    """The volumes of a series, and the planes that belong to none."""

    volumes: tuple[Run, ...]
    refused: tuple[Refused, ...]


def plane_of_image(image: DicomImage, key: str) -> Plane:
    """Return the plane of a file with one image."""
    return Plane(
        key=key,
        frame=0,
        geometry=image.geometry,
        shape=(int(image.values.shape[-2]), int(image.values.shape[-1])),
        number=image.instance_number,
        dimensions=image.dimensions,
        thickness_mm=image.thickness_mm,
        inverted=image.inverted,
        colour=image.values.ndim != 3,
        pixels=image.pixel_sha256,
    )


def grouped(planes: Sequence[Plane]) -> Grouping:
    """Return the volumes of some planes of one series.

    Guarantees: every plane is in exactly one volume or refused, whatever the order in which they come.
    """
    refused: list[Refused] = []
    usable: list[Plane] = []
    for plane in sorted(planes, key=lambda plane: (plane.key, plane.frame)):
        if plane.geometry.position is None or plane.colour:
            refused.append(Refused(plane, *(COLOUR if plane.colour else NO_POSITION)))
        else:
            usable.append(plane)
    volumes: list[Run] = []
    odd: list[Plane] = []
    families = _families(usable)
    for number, line in enumerate(itertools.chain.from_iterable(map(_lines, families))):
        if len(line) == 1:
            odd += line
            continue
        places, far = _without_far(places_of(line))
        refused += [Refused(plane, *APART) for plane in far]
        runs, bad = runs_of(places)
        whole, incomplete = _complete(runs)
        volumes += [replace(run, line=number) for run in whole]
        refused += [*bad, *incomplete]
    usual = max(families, key=len, default=[])
    for plane in odd:
        refused.append(Refused(plane, *(SINGLE if len(usable) == 1 else ("odd-slice", _difference(plane, usual)))))
    return Grouping(tuple(volumes), tuple(refused))


def _difference(plane: Plane, usual: Sequence[Plane]) -> str:
    """Return in which elements a plane differs from the usual ones of its series."""
    first = usual[0]
    same = {
        "Rows or Columns": plane.shape == first.shape,
        "PhotometricInterpretation": plane.inverted == first.inverted,
        "PixelSpacing": _same_spacing(plane, first),
        "ImageOrientationPatient": _same_axes(plane, first),
    }
    found = [name for name, equal in same.items() if not equal] or [
        "ImagePositionPatient, which lies beside their line"
    ]
    return f"it differs from the other slices of its series in {', '.join(found)}"


def _families(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Return planes by size, polarity, pixel spacing and orientation; the last family takes what is too various."""
    families: list[list[Plane]] = []
    for plane in planes:
        mine = next((family for family in families if _alike(family[0], plane)), None)
        if mine is not None:
            mine.append(plane)
        else:
            families.append([plane])
        if len(families) > MAX_FAMILIES:
            return [[plane] for plane in planes]
    return families


def _alike(one: Plane, other: Plane) -> bool:
    same = (one.shape, one.inverted) == (other.shape, other.inverted)
    return same and _same_axes(one, other) and _same_spacing(one, other)


def _same_axes(one: Plane, other: Plane) -> bool:
    axes = zip(
        (*one.geometry.row_direction, *one.geometry.column_direction),
        (*other.geometry.row_direction, *other.geometry.column_direction),
        strict=True,
    )
    return all(abs(a - b) <= SAME_ANGLE for a, b in axes)


def _same_spacing(one: Plane, other: Plane) -> bool:
    sides = zip(one.geometry.spacing_mm, other.geometry.spacing_mm, strict=True)
    return all(abs(a - b) <= SAME_SPACING * a for a, b in sides)


def _lines(family: Sequence[Plane]) -> Iterator[list[Plane]]:
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


def _without_far(places: Sequence[list[Plane]]) -> tuple[list[list[Plane]], list[Plane]]:
    """Return the places without a first or last one that lies far from all others, and the planes of those."""
    normal = places[0][0].geometry.normal
    gaps = np.diff([float(normal @ np.array(visits[0].geometry.position)) for visits in places])
    first, last = 0, len(places)
    if len(gaps) > 2:
        far = gaps > FAR * np.median(gaps)
        first, last = int(far[0] and not far[1:-1].any()), last - int(far[-1] and not far[1:-1].any())
    return list(places[first:last]), [plane for visits in (*places[:first], *places[last:]) for plane in visits]


def _complete(runs: Sequence[Run]) -> tuple[list[Run], list[Refused]]:
    """Return the runs of one line without those that lack places of another run, and without single slices."""
    kept: list[Run] = []
    refused: list[Refused] = []
    for run in runs:
        lacking = any(set(run.places) < set(other.places) and _step(run) == _step(other) for other in runs)
        if len(run.planes) == 1 or lacking:
            refused += [Refused(plane, *(INCOMPLETE if lacking else SINGLE)) for plane in run.planes]
        else:
            kept.append(run)
    return kept, refused


def _step(run: Run) -> float:
    return float(np.median(np.diff(run.places))) if len(run.places) > 1 else 1.0
