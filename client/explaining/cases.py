"""One explained case: its maps with their checks, and the slice that is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from salus.client.data.records import Sample
from salus.client.explaining.nearest import Compared, Counterexample
from salus.client.explaining.pictures import View
from salus.client.explaining.sanity import Curves
from salus.client.explaining.subject import Bools, FloatArray
from salus.client.outgoing.overlays import most_filled


@dataclass(frozen=True)
class MapResult:
    """A map and its checks.

    Args:
        found: on the image's own grid, ``[*spatial]``, or ``[columns]``; of a volume the slice that is shown, once it is known.
        strongest: its largest absolute value, and `peak`, the slice in which it lies; None for what has no slices.
        again: similarity to the map of the same method with other draws, 0 .. 1.
        random_weights: mean similarity to the maps of networks with random weights; None for a model without weights.
        hit: pointing game; None where nothing is annotated, or the case was answered wrong; a map that says nothing misses.
        random_hit: the share of those networks whose maps hit.
    """

    found: FloatArray
    strongest: float
    peak: int | None
    curves: Curves
    again: float
    random_weights: float | None
    hit: bool | None
    random_hit: float | None


@dataclass(frozen=True)
class CaseResult:
    """One case; it is kept until the page is written, so it holds no volumes.

    Args:
        what: is explained, in words.
        values: of a row, by column.
        annotated: share of the image that is annotated; None if nothing is known.
        view: None for a row of a table.
        unfit: methods that were not applied, with the reason.
        pictures: of the counterexamples, in their order; none for rows.
    """

    case: Compared
    what: str
    values: Mapping[str, float]
    annotated: float | None
    view: View | None
    maps: Mapping[str, MapResult]
    unfit: Mapping[str, str]
    counterexamples: Sequence[Counterexample]
    pictures: Sequence[View]

    @property
    def chance(self) -> float | None:
        """The share of the image that is annotated, with which a random place hits it; None where the game is not played."""
        played = any(one.hit is not None for one in self.maps.values())
        return self.annotated if played else None


def kept(one: MapResult, view: View | None) -> MapResult:
    """Return a map of which only the slice that is shown is kept."""
    if view is None or view.place is None:
        return one
    return replace(one, found=one.found[view.place].copy())


def view_of(sample: Sample, region: Bools | None, maps: Mapping[str, MapResult] | None = None) -> View | None:
    """Return an image, or the slice with most of what is annotated, else with the strongest maps; None for a row."""
    if sample.columns:
        return None
    values, spacing = sample.values, sample.spacing_mm
    if values.ndim == 3:
        return View(values, region, spacing)
    if region is not None and region.any():
        place = most_filled(region)
    elif maps:
        shares = [np.abs(one.found) / max(one.strongest, 1e-30) for one in maps.values()]
        place = int(np.sum(shares, axis=0).reshape(values.shape[1], -1).max(axis=1).argmax())
    else:
        place = values.shape[1] // 2
    # Copies, because a part of an array keeps the whole of it.
    return View(values[:, place].copy(), None if region is None else region[place].copy(), spacing, place)
