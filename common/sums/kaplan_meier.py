"""The Kaplan-Meier curve of all sites' patients, with a confidence band, exact or with noise.

Kaplan and Meier 1958; the variance is Greenwood's (1926) and the band that of the logarithm of the cumulative hazard
(Kalbfleisch and Prentice 1980, section 1.3), point by point. With noise the counts of events and of those no longer followed are
noisy; the band then also holds the spread that this noise causes, from `DRAWS` repetitions with a fixed seed.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.registry import settings_of
from salus.common.strict import Strict
from salus.common.sums.base import Block, Float64Vector, Measured, Patients, Totals, sum_of_rows

DRAWS, SEED = 2000, 14
MOST_INTERVALS = 1000


class KaplanMeierSettings(Strict):
    """Settings of `kaplan-meier`.

    Args:
        interval: Width of the intervals of time, in the unit of the data; the curve steps at their ends.
        horizon: Time at which the follow-up ends; who is followed for longer counts as lost there.
        confidence: Of the band, at each time.
        by: Column with values whose patients have a curve each; empty for one curve.
    """

    interval: Annotated[float, Field(gt=0, le=1e9)] = 90.0  # a quarter, in days
    horizon: Annotated[float, Field(gt=0, le=1e9)] = 3650.0  # ten years, in days
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    by: Annotated[str, Field(max_length=64)] = ""


class KaplanMeier:
    """Counts of events and of censored patients in each interval, in one step."""

    Settings = KaplanMeierSettings
    label_is = "measurement"
    labels_only = True  # without `by` it needs neither images nor columns
    steps = 1

    def __init__(self, job: Job) -> None:
        assert job.statistics is not None  # Safe because `sums_of` has looked.
        self._own = settings_of(job.statistics, KaplanMeierSettings)
        self._intervals = max(1, math.ceil(self._own.horizon / self._own.interval))
        if self._intervals > MOST_INTERVALS:
            raise JobError(
                f"Expected at most {MOST_INTERVALS} intervals, got {self._intervals}.", remedy="Use a larger interval."
            )
        self._groups: tuple[float, ...] = ()
        if self._own.by:
            columns = {column.name: column.values for column in job.task.columns}
            if not columns.get(self._own.by):
                raise JobError(
                    f"Expected a column {self._own.by!r} with values in task.columns.",
                    remedy="List the column of statistics.by, with its values.",
                )
            self._groups = columns[self._own.by]

    @property
    def _names(self) -> list[str]:
        return [f"{self._own.by} = {value:g}" for value in self._groups] or ["all"]

    def state_size(self, step: int) -> int:
        return 0

    def blocks(self, step: int) -> Sequence[Block]:
        # Neighbouring intervals are merged until enough patients are in them; their events are then spread evenly.
        kinds = ("lost", "event")
        return [Block(self._intervals, "ordered", family="outcome") for _ in self._names for _ in kinds]

    def reach(self, step: int) -> float:
        return 1.0

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        """Return a one in the cell of the patient's group, outcome and interval."""
        if image.outcome is None:
            return None
        group = 0
        if self._groups:
            value = image.columns.get(self._own.by, math.nan)
            if value not in self._groups:
                return None
            group = self._groups.index(value)
        event = image.outcome.event and image.outcome.time <= self._own.horizon
        place = min(self._intervals - 1, int(min(image.outcome.time, self._own.horizon) / self._own.interval))
        cells = np.zeros((len(self._names), 2, self._intervals))
        cells[group, int(event), place] = 1.0
        return cells.reshape(-1)

    def measure(self, step: int, state: Sequence[float], patients: Patients, least: int) -> Float64Vector:
        return sum_of_rows(self, step, state, patients, least)

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        return [float(value) for value in totals.cells]

    def model(self, state: Sequence[float]) -> dict[str, Any]:
        """Return nothing: the curve is the result."""
        return {}

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        """Return for each group the curve at the end of each interval, with its band, and the numbers of patients and events."""
        cells = np.asarray(state).reshape(len(self._names), 2, self._intervals)
        ends = [min(self._own.horizon, (n + 1) * self._own.interval) for n in range(self._intervals)]
        curves = {
            name: {
                "patients": float(counts.sum()),
                "events": float(counts[1].sum()),
                **curve_of(counts, self._own.confidence, totals.noise_sd),
            }
            for name, counts in zip(self._names, cells, strict=True)
        }
        counted = {"patients": totals.patients, "images": totals.images}
        return {**counted, "kind": "kaplan-meier", "noise_sd": totals.noise_sd, "times": ends, "curves": curves}


def curve_of(counts: Float64Vector, confidence: float, noise_sd: float = 0.0) -> dict[str, list[float]]:
    """Return ``survival``, ``low`` and ``high`` at the end of each interval.

    Args:
        counts: ``[2, intervals]`` of those no longer followed and of events; within an interval events come first.
        noise_sd: standard deviation of the noise in each count.
    """
    survival, spread = _estimate(counts)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    low, high = _band(survival, z * spread)
    if noise_sd > 0:
        rng = np.random.default_rng(SEED)
        draws = counts + rng.normal(0, noise_sd, (DRAWS, *counts.shape))
        curves = _estimate(draws)[0]
        tail = (1 - confidence) / 2
        shift = np.quantile(curves - survival, [tail, 1 - tail], axis=0)
        # Errors of sampling and of noise are independent, so their widths add as squares.
        low = survival - np.hypot(survival - low, np.minimum(shift[0], 0))
        high = survival + np.hypot(high - survival, np.maximum(shift[1], 0))
    return {
        "survival": survival.tolist(),
        "low": np.clip(low, 0, 1).tolist(),
        "high": np.clip(high, 0, 1).tolist(),
    }


def _estimate(counts: Float64Vector) -> tuple[Float64Vector, Float64Vector]:
    """Return the curve, and the standard error of the logarithm of its cumulative hazard (0 while the curve is 1 or 0).

    Args:
        counts: ``[..., 2, intervals]``.
    """
    lost, events = np.moveaxis(np.maximum(counts, 0.0), -2, 0)
    at_risk = np.cumsum((lost + events)[..., ::-1], axis=-1)[..., ::-1]
    share = np.divide(events, at_risk, out=np.zeros_like(events), where=at_risk > 0)
    survival = np.cumprod(1 - share, axis=-1)
    below = at_risk * (at_risk - events)
    variance = np.cumsum(np.divide(events, below, out=np.zeros_like(events), where=below > 0), axis=-1)
    inside = (survival > 0) & (survival < 1)
    logs = np.where(inside, np.log(np.where(inside, survival, 0.5)), 1.0)
    return survival, np.where(inside, np.sqrt(variance) / np.abs(logs), 0.0)


def _band(survival: Float64Vector, width: Float64Vector) -> tuple[Float64Vector, Float64Vector]:
    return survival ** np.exp(width), survival ** np.exp(-width)
