"""Quantiles of pixel intensities over all sites, by vendor if requested, from one histogram; exact to one bin width.

Each image has the same weight, whatever its size. There is one question and not several finer ones about the same pixels,
because overlapping answers could be subtracted until one patient remains.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from salus.common.job import Job
from salus.common.sums.base import Block, Float64Vector, Measured, Patients, Totals, bins_of, finite, sum_of_rows
from salus.common.sums.images import check_images

NORMAL_IQR = 1.3489795  # distance of the quartiles of a standard normal distribution


class Quantiles:
    """One histogram for every group, in one step; the state is the quantiles."""

    steps = 1
    ranged = True

    def __init__(self, job: Job) -> None:
        assert job.statistics is not None  # Safe because `sums_of` has looked.
        check_images(job)
        self._settings = job.statistics
        self._groups = self._settings.vendors or ("ALL",)

    def state_size(self, step: int) -> int:
        return 0

    def blocks(self, step: int) -> Sequence[Block]:
        return [Block(self._settings.bins, "ordered", "intensities") for _ in self._groups]

    def reach(self, step: int) -> float:
        return 1.0  # a distribution, in one group

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        group = image.vendor if self._settings.vendors else "ALL"
        if group not in self._groups or image.counted.size == 0 or not finite(image.intensities):
            return None
        rows = np.zeros((len(self._groups), self._settings.bins))
        settings = self._settings
        rows[self._groups.index(group)] = bins_of(
            image.counted, settings.intensity_low, settings.intensity_high, settings.bins
        )
        return rows.reshape(-1)

    def measure(self, step: int, state: Sequence[float], patients: Patients, least: int) -> Float64Vector:
        return sum_of_rows(self, step, state, patients, least)

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        """Return for each group and probability where the cumulative histogram crosses it, linear within a bin.

        Negative noisy cells are not set to zero before the cumulative sum, because that would add mass.
        """
        settings = self._settings
        edges = np.linspace(settings.intensity_low, settings.intensity_high, settings.bins + 1)
        found: list[float] = []
        for cells in totals.cells.reshape(len(self._groups), settings.bins):
            rising = np.maximum.accumulate(np.maximum(np.concatenate([[0.0], np.cumsum(cells)]), 0.0))
            for probability in settings.quantiles:
                found.append(_crossing(rising, edges, probability * max(float(cells.sum()), 0.0)))
        return found

    def model(self, state: Sequence[float]) -> dict[str, Any]:
        return {}

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        """Return the quantiles by group, and centre and scale of a z-score that is robust to bright spots."""
        settings, count = self._settings, len(self._settings.quantiles)
        found: dict[str, Any] = {"patients": totals.patients, "images": totals.images, "noise_sd": totals.noise_sd}
        found["known_to"] = (settings.intensity_high - settings.intensity_low) / settings.bins
        mass = totals.cells.reshape(len(self._groups), settings.bins).sum(axis=1)
        for number, group in enumerate(self._groups):
            if mass[number] <= 0:
                continue
            values = list(state[number * count : (number + 1) * count])
            found.setdefault("groups", {})[group] = {
                "quantiles": {f"{p:g}": value for p, value in zip(settings.quantiles, values, strict=True)},
                **_centre_and_scale(settings.quantiles, values, found["known_to"]),
            }
        return found


def _crossing(rising: Float64Vector, edges: Float64Vector, target: float) -> float:
    """Return where a cumulative histogram first reaches `target`."""
    place = int(np.searchsorted(rising, target, side="left"))
    if place == 0:
        return float(edges[0])
    if place >= len(rising):
        return float(edges[-1])
    step = rising[place] - rising[place - 1]
    share = (target - rising[place - 1]) / step if step > 0 else 1.0
    return float(edges[place - 1] + share * (edges[place] - edges[place - 1]))


def _centre_and_scale(probabilities: Sequence[float], values: Sequence[float], width: float) -> dict[str, float]:
    """Return the median and the normalised interquartile range; empty if the quartiles cannot be distinguished."""
    known = dict(zip(probabilities, values, strict=True))
    if not {0.25, 0.5, 0.75} <= set(known) or known[0.75] - known[0.25] < width / 2:
        return {}
    return {"centre": known[0.5], "scale": (known[0.75] - known[0.25]) / NORMAL_IQR}
