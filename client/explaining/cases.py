"""One explained case: its maps with their checks, and the slice that is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from salus.client.data.records import Sample
from salus.client.explaining.asking import Asked
from salus.client.explaining.nearest import Compared, Counterexample
from salus.client.explaining.pictures import View, strongest
from salus.client.explaining.sanity import Curves
from salus.client.explaining.subject import Bools, FloatArray
from salus.client.outgoing.overlays import most_filled


@dataclass(frozen=True)
class MapResult:
    """A map and its checks.

    Args:
        found: on the image's own grid, ``[*spatial]``, or ``[columns]``.
        again: similarity to the map of the same method with other draws, 0 .. 1.
        random_weights: mean similarity to the maps of networks with random weights; None for a model without weights.
        hit: pointing game; None where nothing is annotated, or the case was answered wrong.
        random_hit: the share of those networks whose maps hit; a map that says nothing misses.
    """

    found: FloatArray
    curves: Curves
    again: float
    random_weights: float | None
    hit: bool | None
    random_hit: float | None


@dataclass(frozen=True)
class CaseResult:
    """One case.

    Args:
        region: what is annotated, on the image's own grid; None if nothing is.
        view: None for a row of a table.
        unfit: methods that were not applied, with the reason.
        pictures: of the counterexamples, in their order; none for rows.
    """

    case: Compared
    asked: Asked
    region: Bools | None
    view: View | None
    maps: Mapping[str, MapResult]
    unfit: Mapping[str, str]
    counterexamples: Sequence[Counterexample]
    pictures: Sequence[View]

    @property
    def chance(self) -> float | None:
        """The share of the image that is annotated, with which a random place hits it; None where the game is not played."""
        played = any(one.hit is not None for one in self.maps.values())
        return float(self.region.mean()) if played and self.region is not None else None

    def shown(self, found: FloatArray) -> FloatArray:
        """Return the slice of a map that is shown."""
        return found if self.view is None or self.view.place is None else found[self.view.place]


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
        shares = [np.abs(one.found) / max(strongest(one.found), 1e-30) for one in maps.values()]
        place = int(np.sum(shares, axis=0).reshape(values.shape[1], -1).max(axis=1).argmax())
    else:
        place = values.shape[1] // 2
    return View(values[:, place], None if region is None else region[place], spacing, place)
