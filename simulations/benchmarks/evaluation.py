"""Designs of the noisy evaluation: the error of the AUC in each, with the same noise per unit of a patient's row norm.

The old design used 19 numbers per patient (items, loss, hit, and eight cells by probability for each class, together of
norm two) and computed the area from the cells. The others use only cells of log-odds (norm one) and differ in their
thresholds.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from salus.common.tasks.binormal import fit_curve
from salus.common.tasks.classification import area_under_curve
from salus.common.tasks.coarse import EDGES
from salus.simulations.benchmarks.environment import describe_machine, versions

Numbers = npt.NDArray[np.float64]
ITEMS, RAREST = 600, 0.26  # five sites of 600 patients, a fifth of them for validation; classes as in PneumoniaMNIST
NOISE_SD = 7.1  # epsilon 3 at delta 1e-5, the default share, five sites with local noise
POPULATIONS = {
    "calibrated": (-1.6, 1.6, 1.8),
    "timid": (-0.4, 0.4, 0.45),
    "shifted": (0.5, 3.7, 1.8),
    "sure": (-4.0, 4.0, 4.5),
    "high": (1.6, 3.6, 0.75),
}
DESIGNS = {
    "ours": EDGES,
    "two_thresholds": (-2.0, 2.0),
    "wide_thresholds": (-6.0, -1.5, 0.0, 1.5, 6.0),
    "seven_thresholds": (-8.0, -4.0, -2.0, 0.0, 2.0, 4.0, 8.0),
}
BY_PROBABILITY = tuple(float(np.log(k / (8 - k))) for k in range(1, 8))


def run(*, quick: bool = False) -> dict[str, object]:
    """Return the root mean square error of the AUC for each design and population."""
    draws = 5 if quick else 25
    result: dict[str, object] = {"machine": describe_machine(), "versions": versions("numpy", "torch")}
    for population, place in POPULATIONS.items():
        scores, labels = _sample(*place)
        truth = _exact(scores, labels)
        result[f"auc_{population}"] = round(truth, 3)
        for name, edges in DESIGNS.items():
            result[f"ours_{name}_{population}"] = _error(scores, labels, edges, truth, NOISE_SD, _fitted, draws)
        result[f"peer_area_of_ours_{population}"] = _error(scores, labels, EDGES, truth, NOISE_SD, _trapezoid, draws)
        # Rows of norm two: twice the noise in each cell. Negative cells were set to zero.
        result[f"peer_old_{population}"] = _error(scores, labels, BY_PROBABILITY, truth, 2 * NOISE_SD, _clipped, draws)
    return result


def _sample(negative: float, positive: float, spread: float) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    rng = np.random.default_rng(1)
    labels = rng.random(ITEMS) >= RAREST
    return rng.normal(np.where(labels, positive, negative), spread), labels


def _exact(scores: Numbers, labels: npt.NDArray[np.bool_]) -> float:
    return float((scores[labels][:, None] > scores[~labels][None, :]).mean())


def _error(
    scores: Numbers,
    labels: npt.NDArray[np.bool_],
    edges: tuple[float, ...],
    truth: float,
    noise_sd: float,
    estimate: Callable[[Numbers, float], float],
    draws: int,
) -> float:
    cells = np.searchsorted(edges, scores)
    counts = np.stack([np.bincount(cells[side], minlength=len(edges) + 1) for side in (~labels, labels)]).astype(float)
    rng = np.random.default_rng(2)
    errors = [estimate(counts + rng.normal(0, noise_sd, counts.shape), noise_sd) - truth for _ in range(draws)]
    return round(float(np.sqrt(np.mean(np.square(errors)))), 4)


def _fitted(counts: Numbers, noise_sd: float) -> float:
    curve = fit_curve(counts, noise_sd)
    return 0.5 if curve is None or curve.area.value is None else curve.area.value


def _trapezoid(counts: Numbers, noise_sd: float) -> float:
    area = area_under_curve(counts[0], counts[1])
    return 0.5 if area is None else area


def _clipped(counts: Numbers, noise_sd: float) -> float:
    return _trapezoid(np.maximum(counts, 0), noise_sd)
