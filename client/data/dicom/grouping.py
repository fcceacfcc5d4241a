"""From the images of a series to volumes: what lies together, at which places, and what varies there.

Images that differ in size, pixel spacing, orientation, polarity, frame of reference or in whether they state a rescale form
families; those of a family whose corners lie on one straight line form a line, which may be oblique to the slices (a tilted
gantry). Along a line, positions within a tolerance are one place; it is found from the distances themselves, so that rounded
coordinates do no harm. `visits` then tells the images of one place apart. An image that fits nowhere is refused by name, and
costs nothing else.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from salus.client.data.dicom.picture import DicomImage
from salus.client.data.dicom.places import lines_of, places_of
from salus.client.data.dicom.runs import Plane, Refused, Run
from salus.client.data.dicom.visits import runs_of

Float64 = npt.NDArray[np.float64]
SAME_ANGLE = 2e-3  # of the components of unit vectors
SAME_SPACING = 1e-3  # relative
MAX_FAMILIES = 100
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
        scale=image.scale,
        space=image.frame_of_reference,
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
    families = _families(_compared(usable))
    for number, line in enumerate(itertools.chain.from_iterable(map(lines_of, families))):
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


def _compared(planes: list[Plane]) -> list[Plane]:
    """Return planes without the differences that tell nothing: an identity beside no scale, and a space of each plane alone.

    Some software gives each slice a FrameOfReferenceUID of its own, and some leaves it out of a few.
    """
    spaces = {plane.space for plane in planes} - {""}
    alone = len(spaces) == 1 or (len(planes) > 1 and len(spaces) >= len([plane for plane in planes if plane.space]))
    scaled = any(plane.scale == "stated" for plane in planes)
    return [
        replace(
            plane,
            space="" if alone else plane.space,
            scale="none" if plane.scale == "none" and scaled else "stated",
        )
        for plane in planes
    ]


def _difference(plane: Plane, usual: Sequence[Plane]) -> str:
    """Return in which elements a plane differs from the usual ones of its series."""
    first = usual[0]
    same = {
        "Rows or Columns": plane.shape == first.shape,
        "PhotometricInterpretation": plane.inverted == first.inverted,
        "RescaleSlope or RescaleIntercept, which only some state": plane.scale == first.scale,
        "FrameOfReferenceUID": plane.space == first.space,
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
    same = (one.shape, one.inverted, one.scale, one.space) == (other.shape, other.inverted, other.scale, other.space)
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
