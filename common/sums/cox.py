"""Cox regression by Newton's method from sums, the same coefficients as with all patients in one place.

    coefficients (public) ──> every site: for each interval of time, sums over its patients ──> protected sum ──> a Newton step

Cox 1972, "Regression models and life-tables", with Breslow's handling of ties: all events within one public interval count as
simultaneous. The sums over those at risk (of exp(b x), x exp(b x) and x x' exp(b x)) are cumulated over later intervals by the
coordinator, so each patient counts in one interval only. They couple patients, so differential privacy is refused:
nothing bounds what one patient changes in everybody's risk set. Use the task `survival` instead.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.metrics.concordance import c_index
from salus.common.registry import settings_of
from salus.common.strict import Strict
from salus.common.sums.base import Block, Float64Vector, Measured, Patients, Totals, neighbours, too_few
from salus.common.sums.points import MOST_CELLS, Points, pairs_of
from salus.common.tasks.base import Said

MOST_INTERVALS = 1000
LONGEST_STEP = 2.0  # of a coefficient; a longer one leaves the region in which the quadratic model holds
DIGITS = 2.0**10  # factor of all sums, because a protected sum rounds to 2^-24
LARGEST_EXPONENT = 12.0  # of the factor that undoes the division of exp(b x) by its largest value


class CoxSettings(Strict):
    """Settings of `cox`.

    Args:
        interval: Width of the intervals of time, in the unit of the data; events within one count as simultaneous.
        horizon: Time at which the follow-up ends; later events count as censored there.
        ridge: Penalty: half of this, times the squared length of the coefficients of the columns divided by four scales.
    """

    interval: Annotated[float, Field(gt=0, le=1e9)] = 30.0  # a month, in days
    horizon: Annotated[float, Field(gt=0, le=1e9)] = 3650.0  # ten years, in days
    ridge: Annotated[float, Field(ge=0, le=1e6)] = 1.0  # many columns and few events need a penalty


class Cox:
    """The logarithm of the hazard ratio as a linear function of the columns, one Newton step for each round."""

    Settings = CoxSettings
    label_is = "measurement"
    headline: ClassVar[Sequence[str]] = ("c_index",)

    def __init__(self, job: Job) -> None:
        assert job.statistics is not None  # Safe because `sums_of` has looked.
        if job.privacy.noised:
            raise JobError(
                "Cox regression couples patients through the risk sets, so it cannot be differentially private.",
                remedy='Use noise = "none", or train the task "survival", which gives each patient a loss of its own.',
            )
        self.steps = job.job.rounds
        self._own = settings_of(job.statistics, CoxSettings)
        self._points = Points(job, reference=True)
        self._size = len(self._points.axes)
        self._above = pairs_of(self._size)
        self._intervals = max(1, math.ceil(self._own.horizon / self._own.interval))
        self._each = 2 + self._size + len(self._above[0])  # events, exp(b x), x exp(b x), x x' exp(b x)
        if self._intervals > MOST_INTERVALS or self._intervals * self._each > MOST_CELLS:
            raise JobError(
                f"Expected at most {MOST_INTERVALS} intervals and {MOST_CELLS} sums, "
                f"got {self._intervals} and {self._intervals * self._each}.",
                remedy="Use a larger interval, or fewer columns.",
            )

    def state_size(self, step: int) -> int:
        return 0 if step == 1 else self._size

    def blocks(self, step: int) -> Sequence[Block]:
        return [Block(self._size + self._intervals * self._each, "whole")]

    def reach(self, step: int) -> float:
        # Coordinates are in -1 .. 1, and exp(b x) is divided by its largest possible value, which is public.
        return math.sqrt(self._size + self._each)

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        """Return what one patient adds: the events' coordinates, and one interval's sums; entries between -1 and 1."""
        x = self._points.of(image) if image.outcome is not None else None
        if x is None or image.outcome is None:
            return None
        time = min(image.outcome.time, self._own.horizon)
        event = image.outcome.event and image.outcome.time <= self._own.horizon
        place = min(self._intervals - 1, int(time / self._own.interval))
        b = self._coefficients(state)
        risk = math.exp(float(b @ x) - float(np.abs(b).sum()))
        cells = np.zeros((self._intervals, self._each))
        cells[place] = np.concatenate([[float(event), risk], risk * x, risk * np.outer(x, x)[self._above]])
        return np.concatenate([x * event, cells.reshape(-1)])

    def measure(self, step: int, state: Sequence[float], patients: Patients, least: int) -> Float64Vector:
        """Return a site's sums; intervals with too few of its patients are merged with their neighbours, into the middle one.

        A site with events of fewer patients, or all but as few, sends nothing: their columns would follow from the sums.
        So no number, and no difference of two risk sets of one site, is of fewer than `least` patients. The coefficients are
        then those of patients whose times were rounded to the middle of the merged intervals.
        """
        seen, cells = np.zeros(self._size), np.zeros((self._intervals, self._each))
        present: list[npt.NDArray[np.bool_]] = []
        outcomes: list[set[bool]] = []
        images = 0
        for mine in patients:
            mine_in, had = np.zeros(self._intervals, dtype=np.bool_), set[bool]()
            for image in mine:
                row = self.row(step, state, image)
                if row is None:
                    continue
                images += 1
                seen += row[: self._size]
                own = row[self._size :].reshape(self._intervals, self._each)
                cells += own
                mine_in |= own[:, 1] > 0
                had.add(bool(own[:, 0].any()))
            if mine_in.any():
                present.append(mine_in)
                outcomes.append(had)
        if len(present) < max(1, least) or too_few(outcomes, least):
            return np.zeros(2 + self._size + cells.size)
        for group in neighbours(np.stack(present), least):
            total = cells[group].sum(axis=0)
            cells[group] = 0.0
            cells[(group.start + group.stop - 1) // 2] = total
        cells[:, 1:] *= self._factor(state)
        numbers = np.concatenate([seen, cells.reshape(-1)]) * DIGITS
        return np.concatenate([[float(len(present)), float(images)], numbers])

    def _factor(self, state: Sequence[float]) -> float:
        """Return a public factor of the sums of exp(b x), which undoes most of their division by its largest value."""
        return math.exp(min(float(np.abs(self._coefficients(state)).sum()), LARGEST_EXPONENT))

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        """Return the coefficients; after the last step their standard errors, that step's size and the baseline follow."""
        b = self._coefficients(state)
        seen, cells = self._parts(state, totals)
        events, at_risk = cells[:, 0], np.cumsum(cells[::-1, 1:], axis=0)[::-1]
        used = (events > 0.5) & (at_risk[:, 0] > 0)
        means = at_risk[used, 1 : 1 + self._size] / at_risk[used, :1]
        squares = at_risk[used, 1 + self._size :] / at_risk[used, :1]
        information = np.zeros((self._size, self._size))
        information[self._above] = (events[used, None] * squares).sum(axis=0)
        information += np.triu(information, 1).T
        information -= (means * events[used, None]).T @ means
        penalty = self._own.ridge
        gradient = seen - (events[used, None] * means).sum(axis=0) - penalty * b
        values, vectors = np.linalg.eigh(information + penalty * np.eye(self._size))
        inverse = (vectors / np.maximum(values, 1e-9)) @ vectors.T
        change = inverse @ gradient
        change *= min(1.0, LONGEST_STEP / max(float(np.abs(change).max()), 1e-300))
        found = [float(value) for value in b + change]
        if step < self.steps:
            return found
        scale = math.exp(-min(float(np.abs(b).sum()), 700.0))
        hazards = np.divide(events * scale, at_risk[:, 0], out=np.zeros(self._intervals), where=at_risk[:, 0] > 0)
        errors = np.sqrt(np.maximum(np.diag(inverse), 0))
        return [*found, *map(float, errors), float(np.abs(change).max()), *map(float, np.cumsum(hazards))]

    def _parts(self, state: Sequence[float], totals: Totals) -> tuple[Float64Vector, Float64Vector]:
        """Return the sum of the events' coordinates, and the cells ``[intervals, sums]``."""
        seen, flat = np.split(totals.cells / DIGITS, [self._size])
        cells = flat.reshape(self._intervals, self._each)
        cells[:, 1:] /= self._factor(state)
        return seen, cells

    def model(self, state: Sequence[float]) -> dict[str, Any]:
        """Return the coefficients for the columns in their own units, and the cumulative hazard of a patient at all centres."""
        return {
            "kind": "cox",
            "columns": [axis.name for axis in self._points.axes],
            "centres": [axis.centre for axis in self._points.axes],
            "coefficients": [v / axis.unit for v, axis in zip(state, self._points.axes, strict=False)],
            "limits": [[axis.centre - axis.unit, axis.centre + axis.unit] for axis in self._points.axes],
            "interval": self._own.interval,
            "cumulative_hazard": list(state[2 * self._size + 1 :]),
        }

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        errors = state[self._size : 2 * self._size]
        model = self.model(state)
        ratios = [_exp(value) for value in model["coefficients"]]
        return {
            "patients": totals.patients,
            "images": totals.images,
            "noise_sd": 0.0,
            "events": float(totals.cells[self._size :: self._each].sum() / DIGITS),
            **model,
            "standard_errors": [error / axis.unit for error, axis in zip(errors, self._points.axes, strict=True)],
            "hazard_ratios": ratios,
            "last_step": float(state[2 * self._size]),
        }

    def said(self, model: Mapping[str, Any], image: Measured) -> Said | None:
        """Return the logarithm of a patient's hazard ratio against a patient at all centres."""
        x = self._points.of(image)
        if x is None:
            return None
        risk = float(np.asarray(model["coefficients"]) @ (x * [axis.unit for axis in self._points.axes]))
        return Said(f"{risk:.4g}", values={"log_hazard_ratio": risk})

    def scores(self, model: Mapping[str, Any], images: Iterable[Measured]) -> dict[str, float]:
        """Return the concordance, exact over all pairs."""
        risks, outcomes = [], []
        for image in images:
            said = self.said(model, image) if image.outcome is not None else None
            if said is not None and image.outcome is not None:
                risks.append(said.values["log_hazard_ratio"])
                outcomes.append(image.outcome)
        found = c_index(risks, outcomes)
        return {} if found is None else {"c_index": found}

    def _coefficients(self, state: Sequence[float]) -> npt.NDArray[np.float64]:
        return np.asarray(state[: self._size], dtype=np.float64) if state else np.zeros(self._size)


def _exp(value: float) -> float:
    return math.exp(min(700.0, max(-700.0, value)))
