"""The one-run audit's bound: known answers, a slow oracle, and its coverage on a mechanism whose epsilon is known."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from salus.privacy.audit.one_run import audited, correct_guesses, lower_bound, p_value

KNOWN = [
    (100, 0.0, 3.4930), (90, 0.0, 1.6308), (70, 0.0, 0.4717), (50, 0.0, 0.0), (0, 0.0, 0.0),
    (100, 1e-4, 3.4654), (90, 1e-4, 1.6261), (70, 1e-4, 0.4691), (50, 1e-4, 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("correct", "delta", "epsilon"), KNOWN)
def test_known_answers_of_a_hundred_canaries(correct: int, delta: float, epsilon: float) -> None:
    assert lower_bound(100, 100, correct, delta) == pytest.approx(epsilon, abs=5e-5)


@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from([0.9, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_without_delta_it_is_the_exact_bound_of_a_binomial_share(guesses: int, share: float, confidence: float) -> None:
    """Clopper and Pearson 1934, through the quantile of a beta distribution instead of a search."""
    correct = max(1, round(share * guesses))
    least = stats.beta.ppf(1 - confidence, correct, guesses - correct + 1)
    found = lower_bound(guesses, guesses, correct, 0.0, confidence=confidence)
    assert found == pytest.approx(max(0.0, math.log(least / (1 - least))), abs=1e-6)


def oracle(canaries: int, guesses: int, correct: int, odds: Fraction, delta: Fraction) -> float:
    """Theorem 5.2 term by term in exact fractions; `odds` is e^epsilon."""
    chance = odds / (odds + 1)

    def exactly(count: int) -> Fraction:
        return math.comb(guesses, count) * chance**count * (1 - chance) ** (guesses - count)

    def at_least(count: int) -> Fraction:
        return sum((exactly(k) for k in range(max(count, 0), guesses + 1)), Fraction(0))

    worst = max(((at_least(correct - i) - at_least(correct)) / i for i in range(1, canaries + 1)), default=Fraction(0))
    return float(min(Fraction(1), at_least(correct) + 2 * canaries * delta * worst))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_p_value_is_the_theorem_s(data: st.DataObject) -> None:
    canaries = data.draw(st.integers(1, 30))
    guesses = data.draw(st.integers(0, canaries))
    correct = data.draw(st.integers(0, guesses))
    odds = Fraction(data.draw(st.integers(10, 300)), 10)
    delta = data.draw(st.sampled_from([Fraction(0), Fraction(1, 10_000), Fraction(1, 50)]))
    found = p_value(canaries, guesses, correct, math.log(odds), float(delta))
    assert found == pytest.approx(oracle(canaries, guesses, correct, odds, delta), rel=1e-9, abs=1e-12)


@given(st.integers(1, 300), st.floats(0, 1), st.sampled_from([0.0, 1e-6, 1e-4]))
@settings(max_examples=40, deadline=None)
def test_more_correct_guesses_never_lower_the_bound(guesses: int, share: float, delta: float) -> None:
    correct = round(share * guesses)
    here = lower_bound(guesses, guesses, correct, delta)
    assert here <= lower_bound(guesses, guesses, min(guesses, correct + 1), delta) + 1e-9
    assert lower_bound(guesses, guesses, correct, delta, confidence=0.99) <= here + 1e-9
    assert lower_bound(guesses, guesses, correct, delta + 1e-4) <= here + 1e-9
    assert lower_bound(2 * guesses, guesses, correct, delta) <= here + 1e-9  # delta counts for every canary


def test_the_highest_scores_took_part_and_the_lowest_did_not() -> None:
    scores = np.array([5.0, -3.0, 1.0, 0.0, 9.0])
    took_part = np.array([True, False, True, True, False])
    assert [correct_guesses(scores, took_part, guesses) for guesses in (0, 1, 2, 3, 4, 5)] == [0, 0, 1, 2, 2, 3]


def randomised_response(epsilon: float, seed: int, canaries: int = 400) -> float:
    """Return the bound for a mechanism that tells each flip correctly with the chance that epsilon allows."""
    rng = np.random.default_rng(seed)
    took_part = rng.random(canaries) < 0.5
    told = np.where(rng.random(canaries) < 1 / (1 + math.exp(-epsilon)), took_part, ~took_part)
    return audited([told + 1e-3 * rng.random(canaries)], took_part, 0.0).lower_bound


def test_the_bound_exceeds_the_truth_as_rarely_as_it_says_and_refutes_a_smaller_claim() -> None:
    bounds = [randomised_response(1.0, seed) for seed in range(200)]
    assert sum(bound > 1.0 for bound in bounds) <= 20  # at most 5 % expected: more than 20 of 200 has a chance of 1e-3
    assert all(randomised_response(2.0, seed) > 1.0 for seed in range(20))
    assert np.mean(bounds) > 0.6


@pytest.mark.parametrize(
    "wrong", [(10, 11, 5, 1.0, 0.0), (10, 5, 6, 1.0, 0.0), (10, 5, 5, -1.0, 0.0), (10, 5, 5, 1.0, 2.0)]
)
def test_impossible_counts_are_refused(wrong: tuple[int, int, int, float, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        p_value(*wrong)
