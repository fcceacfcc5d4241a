"""ComBat without sharing images: the common model comes from protected sums, and each batch's effect stays at its site.

Johnson, Li, Rabinovic 2007 (Biostatistics 8), for images Fortin et al. 2018 (NeuroImage 167). A feature of image j of
batch i is ``alpha + x_j beta + sigma (gamma_i + delta_i e)``. With one intercept per batch, least squares separates
(Frisch, Waugh 1933): beta and sigma need only sums of products centred within each batch, alpha only sums. So sites add
these, and gamma and delta, which empirical Bayes estimates within one batch, never leave the site.

A batch is the images of one vendor at one site. x encodes the class, so that differences in prevalence are preserved.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.sums.base import Block, Float64Vector, Measured, Patients, Totals, cells_of
from salus.common.sums.features import FEATURES, image_features
from salus.common.sums.images import check_images

Matrix = npt.NDArray[np.float64]
F = len(FEATURES)
LEAST_SIGMA = 1e-6
CONVERGED, MOST_ITERATIONS = 1e-9, 1000


class Combat:
    """Sums of centred products, in one step. Noise is not supported: a product of two features has no useful bound."""

    steps = 1
    ranged = True

    def __init__(self, job: Job) -> None:
        assert job.statistics is not None  # Safe because `sums_of` has looked.
        check_images(job)
        if job.privacy.noised:
            raise JobError(
                "Statistics of kind 'combat' do not support noise.",
                remedy='Use kind = "nyul", or noise = "none" where every site\'s policy allows it.',
            )
        self._low, self._high = job.statistics.intensity_low, job.statistics.intensity_high
        self._covariates = len(job.task.classes) - 1

    def state_size(self, step: int) -> int:
        return 0

    def blocks(self, step: int) -> Sequence[Block]:
        k = self._covariates
        return [Block(k + F + k * k + k * F + F, "whole")]

    def reach(self, step: int) -> float:
        raise JobError("Statistics of kind 'combat' do not support noise.", remedy='Use noise = "none".')

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        """Return an image's features; None if it has none or its label is not a class of the job."""
        if image.label is None:
            return None
        return image_features(image.intensities, self._low, self._high, image.padding)

    def measure(self, step: int, state: Sequence[float], patients: Patients, least: int) -> Float64Vector:
        """Return the sums over all batches.

        A class of a batch with fewer than `least` patients is left out: the products with its covariate would be its own sums.
        """
        total, people = np.zeros(1 + cells_of(self, step)), set()
        batches: dict[str, list[tuple[int, int, Float64Vector]]] = defaultdict(list)
        for number, mine in enumerate(patients):
            for image in mine:
                features = self.row(step, state, image)
                if features is not None and image.label is not None:
                    batches[image.vendor].append((number, image.label, features))
        for found in batches.values():
            of_class: dict[int, set[int]] = defaultdict(set)
            for number, label, _ in found:
                of_class[label].add(number)
            rows = [row for row in found if len(of_class[row[1]]) >= least]
            there = {number for number, _, _ in rows}
            if len(there) < max(least, 2):
                continue
            people |= there
            x, y = self._covariates_of([label for _, label, _ in rows]), np.stack([features for _, _, features in rows])
            x_c, y_c = x - x.mean(axis=0), y - y.mean(axis=0)
            parts = (x.sum(axis=0), y.sum(axis=0), x_c.T @ x_c, x_c.T @ y_c, (y_c**2).sum(axis=0))
            total += np.concatenate([[len(rows)], *(part.reshape(-1) for part in parts)])
        return np.concatenate([[len(people)], total])

    def _covariates_of(self, labels: Sequence[int]) -> Matrix:
        return covariates_of(labels, self._covariates + 1)

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        """Return alpha, sigma and beta, one after the other."""
        k = self._covariates
        x, y, xx, xy, yy = np.split(totals.cells, np.cumsum([k, F, k * k, k * F]))
        count = max(totals.images, 1.0)
        products, mixed = xx.reshape(k, k), xy.reshape(k, F)
        beta = np.linalg.pinv(products) @ mixed
        alpha = (y - x @ beta) / count
        squares = yy - 2 * (beta * mixed).sum(axis=0) + np.einsum("kf,kl,lf->f", beta, products, beta)
        sigma = np.maximum(np.sqrt(np.maximum(squares, 0.0) / count), LEAST_SIGMA)
        return [float(value) for value in np.concatenate([alpha, sigma, beta.reshape(-1)])]

    def model(self, state: Sequence[float]) -> dict[str, Any]:
        return {}

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        model = CombatModel.of(state)
        return {
            "patients": totals.patients,
            "images": totals.images,
            "features": {
                name: {"alpha": model.alpha[i], "sigma": model.sigma[i], "beta": model.beta[:, i].tolist()}
                for i, name in enumerate(FEATURES)
            },
            "constants": list(state),
        }


def covariates_of(labels: Sequence[int], classes: int) -> Matrix:
    """Return one column for each class except the first, 1 where an image has that class."""
    return np.eye(classes)[np.asarray(labels, dtype=np.int64)][:, 1:]


@dataclass(frozen=True)
class CombatModel:
    """The common model: intercept and scale of every feature ``[F]``, and the effects of the classes ``[classes - 1, F]``."""

    alpha: Float64Vector
    sigma: Float64Vector
    beta: Matrix

    @classmethod
    def of(cls, constants: Sequence[float]) -> "CombatModel":
        """Read the constants of a job; raises JobError if their number is wrong."""
        values = np.asarray(constants, dtype=np.float64)
        if len(values) < 3 * F or len(values) % F or (values[F : 2 * F] <= 0).any():
            raise JobError(
                f"Expected a multiple of {F} constants for ComBat, at least {3 * F}, with positive scales; got {len(values)}.",
                remedy="Copy them from the result of statistics of kind 'combat'.",
            )
        return cls(values[:F], values[F : 2 * F], values[2 * F :].reshape(-1, F))

    def batch(self, features: Matrix, labels: Sequence[int]) -> "Batch":
        """Return the effect of one batch, from its own images ``[images, F]`` and their classes; empirical Bayes."""
        expected = self.alpha + covariates_of(labels, len(self.beta) + 1) @ self.beta
        standard = (features - expected) / self.sigma
        count = len(standard)
        if count < 2:
            return Batch(np.zeros(F), np.ones(F))
        gamma_hat, delta_hat = standard.mean(axis=0), standard.var(axis=0, ddof=1)
        gamma_bar, tau2 = gamma_hat.mean(), gamma_hat.var(ddof=1)
        mean, variance = delta_hat.mean(), max(float(delta_hat.var(ddof=1)), 1e-12)
        shape, rate = (2 * variance + mean**2) / variance, (mean * variance + mean**3) / variance
        gamma, delta = gamma_hat, np.maximum(delta_hat, LEAST_SIGMA)
        for _ in range(MOST_ITERATIONS):
            new_gamma = (count * tau2 * gamma_hat + delta * gamma_bar) / (count * tau2 + delta)
            squares = ((standard - new_gamma) ** 2).sum(axis=0)
            new_delta = np.maximum((rate + squares / 2) / (count / 2 + shape - 1), LEAST_SIGMA)
            step = max(float(np.abs(new_gamma - gamma).max()), float((np.abs(new_delta - delta) / delta).max()))
            gamma, delta = new_gamma, new_delta
            if step < CONVERGED:
                break
        return Batch(gamma, np.sqrt(delta))

    def adjusted(self, features: Matrix, batch: "Batch", labels: Sequence[int] | None = None) -> Matrix:
        """Return features without their batch's effect ``[images, F]``.

        Args:
            labels: classes, if known and allowed; without them, an image is centred at `alpha`, as it must be for a model
                that predicts the class.
        """
        expected = self.alpha if labels is None else self.alpha + covariates_of(labels, len(self.beta) + 1) @ self.beta
        rest: Matrix = ((features - expected) / self.sigma - batch.gamma) / batch.delta
        return rest * self.sigma + expected


@dataclass(frozen=True)
class Batch:
    """One batch's shift and stretch of every standardised feature; known at its site only."""

    gamma: Float64Vector
    delta: Float64Vector
