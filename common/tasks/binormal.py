"""The area under a ROC curve from two coarse, noisy histograms of scores, by a binormal fit.

Few cells carry little noise, but with few thresholds the area is far too small, because pairs within a cell count half.
So the curve is assumed to be binormal: after some unknown increasing transformation, the scores of both classes are normal
(Dorfman and Alf 1969; Hanley 1988 on how well real curves are fitted). The fit is penalised least squares, weighted with the
variance of noise and counts; the standard error is that of the linearised fit. If the
curve is not binormal, there is a further error that the standard error does not include (measured in `docs/privacy.md`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from salus.common.estimates import NOTHING, Estimate

Numbers = npt.NDArray[np.float64]
# Weak prior as mean and standard deviation, so that a fit always exists: distance of the classes,
# logarithm of their ratio of spreads, first threshold, logarithm of the distance of two thresholds.
DISTANCE, SPREAD, FIRST, GAP = (1.5, 2.0), (0.0, 0.4), (-1.35, 2.0), (-0.36, 1.5)
LEAST_ITEMS = 2.0  # the items of a class must be this many of their standard errors above zero
STEPS, STEP = 60, 1e-5
STEEPEST = 20.0  # exponent beyond which a curve is a step; the search may try any


@dataclass(frozen=True)
class Curve:
    """A fitted curve: true positive rate = Phi(distance + spread * Phi^-1(false positive rate))."""

    area: Estimate
    distance: float
    spread: float

    def points(self, count: int = 50) -> tuple[tuple[float, float], ...]:
        """Return points from (0, 0) to (1, 1), false positive rate first."""
        t = np.linspace(6, -6, count)
        pairs = zip(_phi(-t), _phi(self.distance - self.spread * t), strict=True)
        return ((0.0, 0.0), *((float(x), float(y)) for x, y in pairs), (1.0, 1.0))


def fit_curve(counts: Numbers, noise_sd: float) -> Curve | None:
    """Return the curve of noisy counts, or None if a class cannot be distinguished from an empty one, or nothing fits.

    A site may add whatever it likes, and must not be able to end a job by it.

    Args:
        counts: ``[2, cells]``, negatives first, cells by ascending score; may be negative.
        noise_sd: standard deviation of the noise in each cell.
    """
    cells = counts.shape[1]
    least = max(0.5, LEAST_ITEMS * noise_sd * float(np.sqrt(cells)))
    if (counts.sum(axis=1) < least).any():
        return None
    with np.errstate(all="ignore"):  # what is not finite is found below
        try:
            at, value, total, noise = _fitted(counts, noise_sd)
        except np.linalg.LinAlgError:
            return None
        spread = float(np.exp(at[3]))
    if not np.isfinite([value, total, noise, at[2], spread]).all():
        return None
    area = Estimate(value=value, standard_error=_larger_side(value, total), noise_error=_larger_side(value, noise))
    return Curve(area, float(at[2]), spread)


def _fitted(counts: Numbers, noise_sd: float) -> tuple[Numbers, float, float, float]:
    """Return the parameters, the area, its standard error and the part of it that is due to the noise."""
    y, (start, precision) = counts.reshape(-1), _prior(counts)
    at = _minimise(y, noise_sd, start, precision)
    expected, jacobian = _expected(at), _jacobian(at)
    weights = 1 / (noise_sd**2 + np.maximum(expected, 1.0))
    covariance = np.linalg.inv(jacobian.T @ (weights[:, None] * jacobian) + np.diag(precision))
    gradient = _slope(_area, at)
    by_cell = gradient @ covariance @ jacobian.T * weights
    value, total = float(_area(at)), float(np.sqrt(gradient @ covariance @ gradient))
    return at, value, total, float(noise_sd * np.sqrt((by_cell**2).sum()))


def _larger_side(area: float, error: float) -> float:
    """Return the standard error towards 0.5; near 1 the area's distribution is skewed, but not its normal quantile's."""
    distance = abs(area - 0.5)
    at = float(special.ndtri(0.5 + min(distance, 0.4999)))
    density = np.exp(-(at**2) / 2) / np.sqrt(2 * np.pi)
    return 0.5 + distance - float(special.ndtr(at - error / density)) if error < density else error


def area_of(curve: Curve | None) -> Estimate:
    """Return the area, or `NOTHING` without a curve."""
    return NOTHING if curve is None else curve.area


def _prior(counts: Numbers) -> tuple[Numbers, Numbers]:
    """Return the prior means, which the fit starts from, and precisions: counts of both classes, distance, spread, thresholds."""
    known = [DISTANCE, SPREAD, FIRST, *[GAP] * (counts.shape[1] - 2)]
    mean = [*counts.sum(axis=1), *(mean for mean, _ in known)]
    return np.array(mean), np.array([0.0, 0.0, *(sd**-2 for _, sd in known)])


def _minimise(y: Numbers, noise_sd: float, start: Numbers, precision: Numbers) -> Numbers:
    """Minimise by Levenberg-Marquardt steps; the weights follow the fitted counts."""
    at, damping = start, 1e-3
    weights = 1 / (noise_sd**2 + np.maximum(y, 1.0))

    def cost(where: Numbers) -> float:
        return float((weights * (y - _expected(where)) ** 2).sum() + (precision * (where - start) ** 2).sum())

    for number in range(STEPS):
        if number % 10 == 0:
            weights = 1 / (noise_sd**2 + np.maximum(_expected(at), 1.0))
        jacobian = _jacobian(at)
        curvature = jacobian.T @ (weights[:, None] * jacobian) + np.diag(precision)
        pull = jacobian.T @ (weights * (y - _expected(at))) - precision * (at - start)
        step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), pull)
        if cost(at + step) <= cost(at):
            at, damping = at + step, max(damping / 5, 1e-9)
        else:
            damping *= 8
        if damping > 1e9 or float(np.abs(step).max()) < 1e-7:
            break
    return at


def _expected(at: Numbers) -> Numbers:
    """Return the expected counts for parameters ``[..., p]``."""
    distance, spread, first = at[..., 2:3], at[..., 3:4], at[..., 4:5]
    thresholds = np.concatenate([first, first + np.cumsum(np.exp(np.minimum(at[..., 5:], STEEPEST)), axis=-1)], axis=-1)
    below = [_phi(thresholds), _phi(np.exp(np.minimum(spread, STEEPEST)) * thresholds - distance)]
    ends = [np.zeros_like(first), np.ones_like(first)]
    shares = [np.diff(np.concatenate([ends[0], part, ends[1]], axis=-1), axis=-1) for part in below]
    return np.concatenate([at[..., 0:1] * shares[0], at[..., 1:2] * shares[1]], axis=-1)


def _area(at: Numbers) -> Numbers:
    return _phi(at[..., 2] / np.sqrt(1 + np.exp(2 * np.minimum(at[..., 3], STEEPEST))))


def _jacobian(at: Numbers) -> Numbers:
    return _slope(_expected, at).T


def _slope(function: Callable[[Numbers], Numbers], at: Numbers) -> Numbers:
    """Return the derivative with respect to each parameter, parameters first."""
    moves = STEP * np.eye(len(at))
    return (function(at + moves) - function(at - moves)) / (2 * STEP)


def _phi(x: Numbers) -> Numbers:
    result: Numbers = special.ndtr(x)
    return result
