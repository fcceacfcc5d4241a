"""Membership inference: did a patient take part? LiRA, offline (Carlini et al. 2022, arXiv 2112.03570, algorithm 1, section VI).

Shadow models are trained like the target on random halves of the same population. A model that fits a patient better than
those shadow models did that never saw the patient was probably trained on the patient. With few shadow models one variance is
used for all patients, as section VI.B of the paper recommends; the score is then a difference.
"""

import numpy as np
import numpy.typing as npt

DoubleVector = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
LEAST, MOST = 1e-7, 50.0  # of a loss, before the logarithms


def confidence(losses: DoubleVector) -> DoubleVector:
    """Return what a loss says about a fit, nearly normally distributed: the logit of exp(-loss) (equation 5 of the paper).

    For the cross-entropy, exp(-loss) is the probability of the true class. Losses that may be negative are only negated.
    """
    known = np.nan_to_num(losses, nan=MOST, posinf=MOST, neginf=-MOST)
    if (known < 0).any():
        return -known
    clipped = np.clip(known, LEAST, MOST)
    found: DoubleVector = -clipped - np.log(-np.expm1(-clipped))
    return found


def offline_scores(fits: DoubleVector, took_part: Flags) -> DoubleVector:
    """Return the scores of every run as the target, with all other runs as its shadow models, ``[runs, patients]``.

    Args:
        fits: of each run's model to each patient, ``[runs, patients]``.
        took_part: whether the patient was in the run's training data, ``[runs, patients]``.

    A patient whom every shadow model saw is compared with the mean of all patients that a shadow model did not see.
    """
    runs = len(fits)
    scores = np.zeros_like(fits)
    for target in range(runs):
        others = np.arange(runs) != target
        out = ~took_part[others]
        counts = out.sum(0)
        sums = (fits[others] * out).sum(0)
        usual = sums.sum() / max(1, counts.sum())
        expected = np.where(counts > 0, sums / np.maximum(counts, 1), usual)
        spread = float(np.sqrt((((fits[others] - expected) ** 2) * out).sum() / max(1, counts.sum())))
        scores[target] = (fits[target] - expected) / max(spread, 1e-12)
    return scores
