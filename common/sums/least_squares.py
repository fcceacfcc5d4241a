"""A least-squares support vector machine with a Gaussian kernel from one protected sum.

    job's seed ──> the same random frequencies everywhere ──> every site: products of its patients' features, added ──> solution

Suykens and Vandewalle 1999 ("Least squares support vector machine classifiers", Neural Processing Letters 9), with the kernel by
random Fourier features: Rahimi and Recht 2007 (NeurIPS), in pairs of a cosine and a sine (Sutherland and Schneider 2015,
arXiv 1506.02785). Such pairs give every patient features of Euclidean norm exactly one, so what one patient adds is bounded
without any clipping.

The sum has more numbers than a site may have patients. It is protected, but whoever learns it (the coordinator) may be able to
compute single rows from the sum of few patients; that nobody can is promised with noise only.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from salus.common.columns import columns_of
from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.registry import settings_of
from salus.common.strict import Strict
from salus.common.sums.base import Block, Float64Vector, Measured, Patients, Totals, sum_of_rows, too_few
from salus.common.sums.binned import FIXED, check_cells
from salus.common.sums.features import FEATURES, image_features
from salus.common.sums.points import REACH, pairs_of
from salus.common.sums.scoring import FromLogits, binary_logits
from salus.common.tasks.encoding import encoded_row, row_width

CONSTANT = 0.5  # the feature that is the same for all; a larger one would cost noise in all other sums
STRETCH = (
    2.0  # of a row: the largest factor that keeps its entries within 1; the noise of the two counts then matters less
)


class LeastSquaresSettings(Strict):
    """Settings of `least-squares`.

    Args:
        random_features: Number of cosines and sines; the error of the kernel falls with its square root.
        kernel_width: Distance at which the kernel is 0.61, in units of the square root of the number of inputs.
        ridge: Penalty of the squared length of the coefficients, in patients.
    """

    random_features: Annotated[int, Field(ge=8, le=500, multiple_of=2)] = 200  # one sum of 20 502 numbers
    kernel_width: Annotated[float, Field(ge=1e-2, le=1e2)] = 1.0  # the usual distance of standardised rows
    ridge: Annotated[float, Field(gt=0, le=1e9)] = 1.0


class LeastSquares(FromLogits):
    """Two classes as -1 and 1, fitted by a linear function of random features; one round."""

    Settings = LeastSquaresSettings
    headline: ClassVar[Sequence[str]] = ("auc", "accuracy")
    steps = 1

    def __init__(self, job: Job) -> None:
        assert job.statistics is not None  # Safe because `sums_of` has looked.
        if len(job.task.classes) != 2:
            raise JobError(
                "Expected two classes for statistics of kind 'least-squares'.",
                remedy="List two classes; the model says how much a patient is like the second.",
            )
        self._own = own = settings_of(job.statistics, LeastSquaresSettings)
        self._task, self._columns = job.task, columns_of(job.task)
        self._low, self._high = job.statistics.intensity_low, job.statistics.intensity_high
        self._size = 1 + own.random_features
        self._above = pairs_of(self._size)
        self._cells = check_cells(len(self._above[0]) + self._size)
        inputs = row_width(self._columns) if self._columns else len(FEATURES)
        rng = np.random.default_rng(job.job.seed)
        self._frequencies = rng.standard_normal((own.random_features // 2, inputs)) / (
            own.kernel_width * math.sqrt(inputs)
        )

    def state_size(self, step: int) -> int:
        return 0

    def blocks(self, step: int) -> Sequence[Block]:
        return [Block(self._cells, "whole")]

    def reach(self, step: int) -> float:
        # With z = (c, f), |f| = 1 and f_i^2 <= 2 / features: half of (|z|^4 + sum of z_i^4) for the products, and |z|^2.
        length = 1 + CONSTANT**2
        products = (length**2 + CONSTANT**4 + 2 / self._own.random_features) / 2
        return STRETCH * math.sqrt(products + length) + math.sqrt(self._cells) / FIXED  # entries are rounded

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        """Return a patient's products of features, and its features times -1 or 1; exact multiples of ``1 / FIXED``."""
        features = None if image.label is None else self._features(image, self._frequencies)
        if features is None:
            return None
        z = np.concatenate([[CONSTANT], features])
        sign = 1.0 if image.label else -1.0
        found: Float64Vector = np.concatenate([np.outer(z, z)[self._above], sign * z])
        return np.rint(STRETCH * found * FIXED) / FIXED

    def measure(self, step: int, state: Sequence[float], patients: Patients, least: int) -> Float64Vector:
        """Return the sums; nothing from a site with a class of too few patients, whose rows would follow from the sums."""
        labels: list[set[int]] = []
        sums = sum_of_rows(self, step, state, (self._noted(mine, labels) for mine in patients), least)
        return np.zeros_like(sums) if too_few(labels, least) else sums

    def _noted(self, mine: Iterable[Measured], labels: list[set[int]]) -> Iterable[Measured]:
        """Yield a patient's images that count, one after the other, and note their labels."""
        own: set[int] = set()
        labels.append(own)
        for image in mine:
            if image.label is not None and self._features(image, self._frequencies) is not None:
                own.add(image.label)
                yield image

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        """Return the coefficients, that of the constant first."""
        products = np.zeros((self._size, self._size))
        pairs = len(self._above[0])
        products[self._above] = totals.cells[:pairs] / STRETCH
        products += np.triu(products, 1).T
        # Noise may make a direction look as if it held patients; its size is that of a random symmetric matrix.
        noise = totals.noise_sd / STRETCH * math.sqrt(self._size)
        penalty = np.full(self._size, self._own.ridge + noise)
        penalty[0] = 1e-9 + noise
        values, vectors = np.linalg.eigh(products + np.diag(penalty))
        inverse = (vectors / np.maximum(values, max(1e-9, noise))) @ vectors.T
        return [float(value) for value in inverse @ (totals.cells[pairs:] / STRETCH)]

    def model(self, state: Sequence[float]) -> dict[str, Any]:
        """Return frequencies and coefficients; what they act on is said by the columns of the job."""
        half = self._own.random_features // 2
        return {
            "kind": "least-squares",
            "columns": [column.name for column in self._columns] or list(FEATURES),
            "frequencies": self._frequencies.tolist(),
            "intercept": CONSTANT * float(state[0]),
            "cosines": list(state[1 : 1 + half]),
            "sines": list(state[1 + half :]),
        }

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        found = {"patients": totals.patients, "images": totals.images, "noise_sd": totals.noise_sd}
        return {**found, **self.model(state)}

    def _logits(self, model: Mapping[str, Any], image: Measured) -> Float64Vector | None:
        """Return the side and distance of a patient as logits; the probabilities that follow are not calibrated."""
        features = self._features(image, np.asarray(model["frequencies"], dtype=np.float64))
        if features is None:
            return None
        weights = np.concatenate([model["cosines"], model["sines"]])
        # The fit estimates m = 2 p - 1, so the log-odds are 2 artanh(m); to first order 2 m, which is finite beyond 1, too.
        return binary_logits(2 * (float(model["intercept"]) + float(weights @ features)))

    def _features(self, image: Measured, frequencies: npt.NDArray[np.float64]) -> Float64Vector | None:
        """Return cosines, then sines, of Euclidean norm 1; None without an image. A missing value is its column's centre."""
        if self._columns:
            values = np.array([image.columns.get(column.name, math.nan) for column in self._columns])
            values[~np.isfinite(values)] = math.nan
            inputs = np.clip(np.array(encoded_row(self._columns, values)), -REACH, REACH)
        else:
            found = image_features(image.intensities, self._low, self._high, image.padding)
            if found is None:
                return None
            inputs = found
        angles = frequencies @ inputs
        return np.concatenate([np.cos(angles), np.sin(angles)]) / math.sqrt(len(angles))
