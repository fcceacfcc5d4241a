"""Quantiles of pixel intensities over all sites, by vendor where asked: a histogram around each, refined in every step.

Each image counts alike, whatever its size. After three steps of 64 bins a quantile is known to a 260 000th of the range.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from salus.common.analyses.base import Float64Vector, Measured, Totals, bins_of, finite, sum_of_rows
from salus.common.job import Job

NORMAL_IQR = 1.3489795  # distance of the quartiles of a standard normal distribution


class Quantiles:
    """Refines a bracket [low, high] for every group and probability; the state is those brackets."""

    steps = 3
    takes_noise = True

    def __init__(self, job: Job) -> None:
        assert job.statistics is not None  # Safe because `analysis_of` has looked.
        self._settings = job.statistics
        self._groups = self._settings.vendors or ("ALL",)
        self._probabilities = self._settings.quantiles
        self._width = self._settings.bins + 2  # below the bracket, its bins, above it

    def state_size(self, step: int) -> int:
        return 0 if step == 1 else 2 * len(self._groups) * len(self._probabilities)

    def cells(self, step: int) -> int:
        return len(self._groups) * len(self._probabilities) * self._width

    def reach(self, step: int) -> float:
        return math.sqrt(len(self._probabilities))  # a distribution for each, in one group

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        group = image.vendor if self._settings.vendors else "ALL"
        if group not in self._groups or image.intensities.size == 0 or not finite(image.intensities):
            return None
        values = np.sort(image.intensities, axis=None)
        rows = np.zeros((len(self._groups), len(self._probabilities), self._width))
        number = self._groups.index(group)
        for place, (low, high) in enumerate(self._brackets(state)[number]):
            first, last = np.searchsorted(values, low, "left"), np.searchsorted(values, high, "left")
            inside = values[first:last]
            shares = bins_of(inside, low, high, self._settings.bins) * (inside.size / values.size)
            rows[number, place] = [first / values.size, *shares, (values.size - last) / values.size]
        return rows.reshape(-1)

    def measure(
        self, step: int, state: Sequence[float], patients: Iterable[Sequence[Measured]], least: int
    ) -> Float64Vector:
        return sum_of_rows(self, step, state, patients, least)

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        """Return for each quantile the bin of its bracket in which the distribution crosses its probability."""
        brackets = self._brackets(state)
        cells = np.maximum(totals.cells, 0.0).reshape(len(self._groups), len(self._probabilities), self._width)
        folded: list[float] = []
        for group in range(len(self._groups)):
            for place, probability in enumerate(self._probabilities):
                low, high = brackets[group][place]
                counts = cells[group, place]
                folded += _crossing(counts, probability, low, high, self._settings.bins)
        return folded

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        """Return the quantiles by group, and centre and scale of a z-score that bright spots do not move."""
        brackets = self._brackets(state)
        found: dict[str, Any] = {"patients": totals.patients, "images": totals.images, "noise_sd": totals.noise_sd}
        shares = totals.cells.reshape(len(self._groups), -1).sum(axis=1)
        for number, group in enumerate(self._groups):
            if shares[number] <= 0:
                continue
            values = [(low + high) / 2 for low, high in brackets[number]]
            found.setdefault("groups", {})[group] = {
                "quantiles": {f"{p:g}": value for p, value in zip(self._probabilities, values, strict=True)},
                **_centre_and_scale(self._probabilities, values),
            }
        return found

    def _brackets(self, state: Sequence[float]) -> list[list[tuple[float, float]]]:
        count = len(self._probabilities)
        if not state:
            whole = (self._settings.intensity_low, self._settings.intensity_high)
            return [[whole] * count for _ in self._groups]
        pairs = list(zip(state[::2], state[1::2], strict=True))
        return [pairs[number * count : (number + 1) * count] for number in range(len(self._groups))]


def _crossing(counts: Float64Vector, probability: float, low: float, high: float, bins: int) -> list[float]:
    """Return the ends of the bin in which the cumulated counts cross a share of all; outside the bracket, its nearest end."""
    target = probability * counts.sum()
    reached = int(np.searchsorted(np.cumsum(counts), target, side="left"))
    place = min(max(reached - 1, 0), bins - 1)
    width = (high - low) / bins
    return [low + place * width, low + (place + 1) * width]


def _centre_and_scale(probabilities: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    known = dict(zip(probabilities, values, strict=True))
    if not {0.25, 0.5, 0.75} <= set(known):
        return {}
    return {"centre": known[0.5], "scale": max((known[0.75] - known[0.25]) / NORMAL_IQR, 1e-9)}
