"""What grouping works on: planes, the runs of planes that become volumes, and planes that belong to none."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from salus.client.data.dicom.geometry import Geometry
from salus.client.data.dicom.intensities import Scale


@dataclass(frozen=True)
class Plane:
    """One image of one place.

    Args:
        key: of its file; `frame` counts the images of one file.
        shape: rows and columns.
        number: InstanceNumber, or the frame's number.
        dimensions: see `dimensions`.
        thickness_mm: 0 where it is unknown.
        pixels: hash of its pixels.
        scale: see `intensities.Scale`.
        space: FrameOfReferenceUID, the coordinates in which its place is stated.
    """

    key: str
    frame: int
    geometry: Geometry
    shape: tuple[int, int]
    number: int
    dimensions: Mapping[str, float | str]
    thickness_mm: float = 0.0
    inverted: bool = False
    colour: bool = False
    pixels: str = ""
    scale: Scale = "none"
    space: str = ""

    @property
    def rank(self) -> tuple[int, str]:
        """By which planes are sorted where nothing else does: the same for a file as it is and as an import keeps it."""
        return self.number, self.pixels


@dataclass(frozen=True)
class Refused:
    """A plane that belongs to no volume."""

    plane: Plane
    reason: str
    detail: str


@dataclass(frozen=True)
class Run:
    """Planes along their normal that agree in `values`.

    Args:
        places: the number of each plane's place among all places of the line.
        order: by which the runs of a line are sorted.
        line: number of the line.
    """

    values: Mapping[str, float | str]
    planes: tuple[Plane, ...]
    places: tuple[int, ...]
    order: tuple[int, ...] = ()
    line: int = 0

    @property
    def broken(self) -> bool:
        """Whether the run's places do not follow each other in equal steps, as those of a whole volume do."""
        steps = {second - first for first, second in itertools.pairwise(self.places)}
        return len(steps) != 1
