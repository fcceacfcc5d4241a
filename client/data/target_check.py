"""What a site should know about a data set's annotations before a job uses them: amounts, empty ones, those that do not fit."""

import heapq
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from salus.client.data.records import Sample
from salus.client.data.targets import Target
from salus.client.outgoing.overlays import boxed, overlay
from salus.common.declaration import TargetKind
from salus.common.pages import Section

MAX_LISTED = 10
UNITS: Mapping[str, str] = {"mask": "ml", "boxes": "boxes", "contours": "contours"}
PICTURES = "images"  # the kind of data set whose pixels have no size
AMOUNT_COLUMNS = ("structure", "images that show it", "smallest", "median", "largest")


@dataclass
class TargetFindings:
    """One annotation of a data set.

    Args:
        images: how many have it.
        lacking: how many images do not have it.
        empty: how many of them show none of its structures.
        cut: how many reach beyond their image; the worst by key, with the share that is lost.
        amounts: of each structure in the images that show it, see `Target`.
    """

    kind: TargetKind
    images: int = 0
    lacking: int = 0
    empty: int = 0
    cut: int = 0
    worst: list[tuple[float, str]] = field(default_factory=list)
    amounts: dict[str, list[float]] = field(default_factory=dict)

    def add(self, key: str, target: Target) -> None:
        """Count one image's annotation."""
        self.images += 1
        self.empty += target.empty
        if target.outside > 0:
            self.cut += 1
            heapq.heappush(self.worst, (target.outside, key))
            if len(self.worst) > MAX_LISTED:
                heapq.heappop(self.worst)
        for structure, amount in target.amounts.items():
            mine = self.amounts.setdefault(structure, [])
            if amount > 0:
                mine.append(amount)

    def rows(self) -> list[tuple[object, ...]]:
        """Return a row for each structure, see `AMOUNT_COLUMNS`."""
        found: list[tuple[object, ...]] = []
        for structure, mine in self.amounts.items():
            if mine and self.kind in UNITS:
                numbers = (min(mine), statistics.median(mine), max(mine))
                found.append((structure, len(mine), *(f"{number:.4g}" for number in numbers)))
            else:
                found.append((structure, len(mine), "", "", ""))
        return found

    def warnings(self, name: str) -> list[str]:
        """Return what to look at, for people."""
        found = []
        if self.lacking:
            found.append(f"{self.lacking} images have no {name}; jobs that need it do not use them.")
        if self.empty and self.kind in UNITS:
            found.append(f"{self.empty} annotations {name!r} are empty: check that nothing was to be marked.")
        if self.cut:
            share = max(outside for outside, _ in self.worst)
            found.append(
                f"{self.cut} annotations {name!r} reach beyond their image, one with {share:.0%} of its volume: check that "
                "they belong to it."
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the counts and amounts; no file name."""
        structures = {
            structure: {"images": len(mine), "median": statistics.median(mine) if mine else 0.0}
            for structure, mine in self.amounts.items()
        }
        counts = {name: getattr(self, name) for name in ("kind", "images", "lacking", "empty", "cut")}
        return {**counts, "structures": structures}


def unit_of(kind: TargetKind, source: str) -> str:
    """Return the unit of a target's amounts in a data set of this kind; empty for those that are only present or absent."""
    return "pixels" if kind == "mask" and source == PICTURES else UNITS.get(kind, "")


def findings(targets: Iterable[tuple[str, Mapping[str, Target]]]) -> dict[str, TargetFindings]:
    """Return what is known about all annotations, by name, from each image's key and annotations."""
    found: dict[str, TargetFindings] = {}
    images = 0
    for key, mine in targets:
        images += 1
        for name, target in mine.items():
            found.setdefault(name, TargetFindings(target.kind)).add(key, target)
    for name in found:
        found[name].lacking = images - found[name].images
    return dict(sorted(found.items()))


def sections_of(found: Mapping[str, TargetFindings], source: str) -> list[Section]:
    """Return the findings as sections of a page.

    Args:
        source: kind of the data set.
    """
    sections = []
    for name, target in found.items():
        unit = unit_of(target.kind, source)
        title = f"Annotation {name!r}" + (f": {unit} in each image" if unit else "")
        counts = (
            f"{target.images} images have it, {target.lacking} do not; {target.empty} are empty, "
            f"{target.cut} reach beyond the image."
        )
        sections.append(Section(title, counts, columns=AMOUNT_COLUMNS, rows=target.rows()))
    return sections


def pictured(sample: Sample) -> str:
    """Return a picture of an image with its mask, boxes or contours as a ``data:`` URL; empty if it has none of these."""
    name = _drawn(sample)
    if not name:
        return ""
    values, spacing = sample.targets[name], sample.spacing_mm
    if sample.kinds[name] == "mask":
        return overlay(sample.values, values, spacing_mm=spacing)
    shapes = _corners(values) if sample.kinds[name] == "boxes" else _lines(values)
    return boxed(sample.values, shapes, spacing_mm=spacing)


def structures_of(sample: Sample) -> dict[int, str]:
    """Return the names of the structures that `pictured` draws, by class number, which decides their colour."""
    name = _drawn(sample)
    if not name:
        return {}
    known = dict(enumerate(sample.names.get(name, ()), start=1))
    if known:
        return known
    values = sample.targets[name]
    if sample.kinds[name] == "mask":
        layers = values.ndim == sample.values.ndim
        numbers = np.arange(1, len(values) + 1) if layers else np.unique(values)
    else:
        numbers = np.unique(values[:, -1] if sample.kinds[name] == "boxes" else values[:, 1])
    return {int(number): str(int(number)) for number in numbers if number > 0}


def _drawn(sample: Sample) -> str:
    """Return the name of the annotation that is drawn: a mask if there is one; boxes and contours only in two dimensions."""
    usable = ("mask", "boxes", "contours") if sample.values.ndim == 3 else ("mask",)
    names = [name for name in sample.targets if sample.kinds[name] in usable]
    return min(names, key=lambda name: sample.kinds[name] != "mask", default="")


def _corners(boxes: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return each box's class number and corners (row, column)."""
    return [
        (int(number), np.array([[top, left], [top, right], [bottom, right], [bottom, left]]))
        for top, left, bottom, right, number in boxes
    ]


def _lines(contours: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return each contour's class number and points (row, column)."""
    return [
        (int(mine[0, 1]), mine[:, 2:]) for mine in (contours[contours[:, 0] == c] for c in np.unique(contours[:, 0]))
    ]
