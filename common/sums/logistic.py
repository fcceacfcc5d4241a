"""Logistic regression by Newton's method, the same coefficients as with all patients in one place.

    coefficients (public) ──> every site: gradient and information matrix, added ──> protected sum ──> a Newton step

McCullagh and Nelder 1989, "Generalized linear models", chapter 4. Each step is exact: the sums of the sites' gradients and
information matrices are those of the pooled patients. A patient with a missing value is left out (complete cases).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.registry import settings_of
from salus.common.strict import Strict
from salus.common.sums.base import Block, Float64Vector, Measured, Patients, Totals, sum_of_rows, too_few
from salus.common.sums.points import Points, pairs_of
from salus.common.sums.scoring import FromLogits, binary_logits

LONGEST_STEP = 10.0  # of a coefficient; a longer one leaves the region in which the quadratic model holds


class LogisticSettings(Strict):
    """Settings of `logistic`.

    Args:
        ridge: Penalty: half of this, times the squared length of the coefficients of the columns divided by four scales.
    """

    ridge: Annotated[float, Field(ge=0, le=1e6)] = 1e-3  # below rounding; a perfectly separating column stays finite


class Logistic(FromLogits):
    """The logarithm of the odds of the second class as a linear function of the columns, one Newton step for each round."""

    Settings = LogisticSettings
    headline: ClassVar[Sequence[str]] = ("auc", "accuracy")

    def __init__(self, job: Job) -> None:
        assert job.statistics is not None  # Safe because `sums_of` has looked.
        if len(job.task.classes) != 2:
            raise JobError(
                "Expected two classes for statistics of kind 'logistic'.",
                remedy="List the class whose odds are modelled second.",
            )
        self.steps, self._task = job.job.rounds, job.task
        self._ridge = settings_of(job.statistics, LogisticSettings).ridge
        self._points = Points(job, reference=True)
        self._size = 1 + len(self._points.axes)
        self._above = pairs_of(self._size)

    def state_size(self, step: int) -> int:
        return 0 if step == 1 else self._size

    def blocks(self, step: int) -> Sequence[Block]:
        return [Block(self._size + len(self._above[0]), "whole")]

    def reach(self, step: int) -> float:
        # |y - p| < 1, p (1 - p) <= 1/4, and the point with its leading one has norm at most sqrt(size).
        return math.sqrt(self._size + (self._size / 4) ** 2)

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        """Return gradient and information of one patient; entries between -1 and 1."""
        point = self._points.of(image) if image.label is not None else None
        if point is None:
            return None
        x = np.concatenate([[1.0], point])
        p = 1 / (1 + math.exp(-min(500.0, max(-500.0, float(self._coefficients(state) @ x)))))
        assert image.label is not None  # Safe because there is a point.
        return np.concatenate([(image.label - p) * x, p * (1 - p) * np.outer(x, x)[self._above]])

    def measure(self, step: int, state: Sequence[float], patients: Patients, least: int) -> Float64Vector:
        """Return the sums; nothing from a site with a class of too few patients, whose columns would follow from the sums."""
        labels: list[set[int]] = []
        sums = sum_of_rows(self, step, state, (self._noted(mine, labels) for mine in patients), least)
        return np.zeros_like(sums) if too_few(labels, least) else sums

    def _noted(self, mine: Iterable[Measured], labels: list[set[int]]) -> Iterable[Measured]:
        """Yield a patient's images that count, one after the other, and note their labels."""
        own: set[int] = set()
        labels.append(own)
        for image in mine:
            if image.label is not None and self._points.of(image) is not None:
                own.add(image.label)
                yield image

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        """Return the coefficients; after the last step their standard errors and the size of that step follow."""
        coefficients = self._coefficients(state)
        information = np.zeros((self._size, self._size))
        information[self._above] = totals.cells[self._size :]
        information += np.triu(information, 1).T
        penalty = np.full(self._size, self._ridge)
        penalty[0] = 0.0
        # Noise may make directions without information look informative, so each keeps at least the noise's own size.
        floor = max(1e-9, totals.noise_sd * math.sqrt(self._size))
        values, vectors = np.linalg.eigh(information + np.diag(penalty))
        inverse = (vectors / np.maximum(values, floor)) @ vectors.T
        change = inverse @ (totals.cells[: self._size] - penalty * coefficients)
        change *= min(1.0, LONGEST_STEP / max(float(np.abs(change).max()), 1e-300))
        found = [float(value) for value in coefficients + change]
        if step < self.steps:
            return found
        return [*found, *(float(value) for value in np.sqrt(np.diag(inverse))), float(np.abs(change).max())]

    def model(self, state: Sequence[float]) -> dict[str, Any]:
        """Return intercept and coefficients for the columns in their own units."""
        per_unit = [value / axis.unit for value, axis in zip(state[1:], self._points.axes, strict=False)]
        shift = sum(value * axis.centre for value, axis in zip(per_unit, self._points.axes, strict=True))
        return {
            "kind": "logistic",
            "columns": [axis.name for axis in self._points.axes],
            "intercept": float(state[0]) - shift,
            "coefficients": per_unit,
            "limits": [[axis.centre - axis.unit, axis.centre + axis.unit] for axis in self._points.axes],
        }

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        errors = state[self._size + 1 : 2 * self._size]
        found = {"patients": totals.patients, "images": totals.images, "noise_sd": totals.noise_sd}
        return {
            **found,
            **self.model(state),
            "standard_errors": [error / axis.unit for error, axis in zip(errors, self._points.axes, strict=True)],
            "last_step": float(state[-1]),
        }

    def _logits(self, model: Mapping[str, Any], image: Measured) -> Float64Vector | None:
        x = self._points.of(image)
        if x is None:
            return None
        units = np.array([axis.unit for axis in self._points.axes])
        centres = np.array([axis.centre for axis in self._points.axes])
        return binary_logits(
            float(model["intercept"]) + float(np.asarray(model["coefficients"]) @ (x * units + centres))
        )

    def _coefficients(self, state: Sequence[float]) -> npt.NDArray[np.float64]:
        return np.asarray(state[: self._size], dtype=np.float64) if state else np.zeros(self._size)
