"""A lower bound of epsilon from one run (Steinke, Nasr, Jagielski 2023, arXiv 2305.08846, theorem 5.2).

Each canary, a record made up for the audit, takes part by a fair coin flip. The auditor sees what was released and guesses the
flips, with the right to abstain. A mechanism with epsilon and delta allows only so many correct guesses; more of them refute it.

The bound holds with the stated confidence. It says nothing about the other direction: a bound of 0 does not mean that the
mechanism is private, it means that this auditor, with this number of canaries, found nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

LARGEST_EPSILON = 60.0  # beyond it a correct guess is certain to the last bit of a double
CONFIDENCE = 0.95  # of the bound that an audit states
FEWEST_CANARIES = 20  # fewer hardly refute anything
STEPS = 40  # halvings of the interval: 60 / 2^40 is far below what is printed
SHARES = (1.0, 0.5, 0.2, 0.1)  # of the canaries that are guessed: many for a small epsilon, few for a large one
DoubleVector = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Found:
    """The result of an audit.

    Args:
        lower_bound: of epsilon, at the audit's delta and confidence.
        canaries: how many coin flips there were.
        guesses: how many of them the auditor guessed.
        correct: how many guesses were correct.
    """

    lower_bound: float
    canaries: int
    guesses: int
    correct: int


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return a bound on the probability of at least `correct` correct guesses under a mechanism with this epsilon and delta.

    Args:
        canaries: number of fair coin flips.
        guesses: number of flips that were guessed, at most `canaries`; chosen without knowledge of the flips.
        correct: number of correct guesses, at most `guesses`.
    """
    if not (0 <= correct <= guesses <= canaries and epsilon >= 0 and 0 <= delta <= 1):
        raise ValueError("expected 0 <= correct <= guesses <= canaries, epsilon >= 0 and delta from 0 to 1")
    chance = 1.0 / (1.0 + np.exp(-epsilon))
    # The binomial tail as an incomplete beta function, which is faster.
    bound = float(special.betainc(correct, guesses - correct + 1, chance)) if correct else 1.0
    if delta and correct:
        fewer = stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, chance)
        bound += 2 * canaries * delta * float(np.max(np.cumsum(fewer) / np.arange(1, correct + 1)))
    return min(bound, 1.0)


def lower_bound(canaries: int, guesses: int, correct: int, delta: float, *, confidence: float = CONFIDENCE) -> float:
    """Return an epsilon that so many correct guesses refute at this confidence (the largest if `delta` is 0); 0 if none.

    A mechanism with an epsilon has every larger one, too. So a refuted epsilon refutes all smaller ones, and any place
    where the p-value crosses the level gives a valid bound.
    """
    level = 1 - confidence
    if p_value(canaries, guesses, correct, 0.0, delta) > level:
        return 0.0
    low, high = 0.0, LARGEST_EPSILON
    for _ in range(STEPS):
        middle = (low + high) / 2
        if p_value(canaries, guesses, correct, middle, delta) <= level:
            low = middle
        else:
            high = middle
    return low


def correct_guesses(scores: DoubleVector, took_part: Flags, guesses: int) -> int:
    """Return how many guesses are correct: the highest half of `guesses` scores took part, the lowest half did not.

    Args:
        scores: ``[canaries]``; a higher one speaks for having taken part. Ties go against the auditor in no particular way.
        took_part: the coin flips, ``[canaries]``.
    """
    order = np.argsort(scores, kind="stable")
    low, high = guesses // 2, guesses - guesses // 2
    return int((~took_part[order[:low]]).sum() + took_part[order[len(order) - high :]].sum())


def auditors(*, noised: bool) -> int:
    """Return how many auditors score the canaries of a job: one believes in the noise that the job states, one in none."""
    return 2 if noised else 1


def bound_of_counts(canaries: int, guesses: int, correct: int, delta: float, *, noised: bool) -> float:
    """Return the bound that an audit of a job with these counts states, see `audited`; errors as in `p_value`."""
    each = _corrected(CONFIDENCE, len(SHARES) * auditors(noised=noised))
    return lower_bound(canaries, guesses, correct, delta, confidence=each)


def _corrected(confidence: float, tries: int) -> float:
    return 1 - (1 - confidence) / tries


def audited(
    scores_of_each: Sequence[DoubleVector],
    took_part: Flags,
    delta: float,
    *,
    confidence: float = CONFIDENCE,
    shares: Sequence[float] = SHARES,
) -> Found:
    """Return the best bound over several auditors and shares of guessed canaries, which together keep the confidence.

    Args:
        scores_of_each: the scores of each auditor, ``[canaries]``.
        took_part: the coin flips, ``[canaries]``.

    Guarantees: with a mechanism of epsilon and delta, the bound exceeds epsilon with a probability of at most 1 - `confidence`
    (Bonferroni's correction for the number of tries).
    """
    count = len(took_part)
    each = _corrected(confidence, len(shares) * len(scores_of_each))
    found = []
    for scores in scores_of_each:
        for share in shares:
            guesses = min(count, max(1, round(share * count)))
            correct = correct_guesses(scores, took_part, guesses)
            bound = lower_bound(count, guesses, correct, delta, confidence=each)
            found.append(Found(bound, count, guesses, correct))
    return max(found, key=lambda one: one.lower_bound)
