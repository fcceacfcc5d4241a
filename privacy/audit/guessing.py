"""How well an attacker's scores tell two cases apart: area under the curve, rates, and an interval by resampling."""

import numpy as np
import numpy.typing as npt
from scipy import stats

DoubleVector = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
REPEATS = 400  # resamples: the ends of an interval are then exact to about two in a hundred of its width


def area(scores: DoubleVector, truth: Flags) -> float:
    """Return the area under the ROC curve (Mann and Whitney 1947); 0.5 if there is only one case.

    Args:
        scores: any shape; a higher one speaks for the case. Ties count one half.
        truth: the same shape.
    """
    yes, no = int(truth.sum()), int((~truth).sum())
    if not yes or not no:
        return 0.5
    ranks = stats.rankdata(scores.ravel())
    return float((ranks[truth.ravel()].sum() - yes * (yes + 1) / 2) / (yes * no))


def true_positive_rate(scores: DoubleVector, truth: Flags, false_positive_rate: float) -> float:
    """Return the share of the true cases above a threshold that at most this share of the others exceeds; 0 without cases."""
    yes, no = scores[truth], np.sort(scores[~truth])[::-1]
    if not len(yes) or not len(no):
        return 0.0
    allowed = int(false_positive_rate * len(no) + 1e-9)
    return float((yes > no[min(allowed, len(no) - 1)]).mean())


def interval(
    scores: DoubleVector, truth: Flags, rng: np.random.Generator, confidence: float = 0.95
) -> tuple[float, float]:
    """Return a confidence interval of `area`, from resampling rows and columns (Owen 2007, the pigeonhole bootstrap).

    Args:
        scores: ``[runs, subjects]``: one run tells about all subjects, and a subject occurs in every run, so both are drawn
            anew. The interval is rather too wide than too narrow.
    """
    runs, subjects = scores.shape
    found = []
    for _ in range(REPEATS):
        rows, columns = rng.integers(0, runs, runs), rng.integers(0, subjects, subjects)
        found.append(area(scores[np.ix_(rows, columns)], truth[np.ix_(rows, columns)]))
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
