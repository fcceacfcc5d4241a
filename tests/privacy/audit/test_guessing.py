"""Area under the curve and rates: against counting pairs, and the interval's coverage."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salus.privacy.audit.guessing import area, interval, true_positive_rate


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_area_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[int, bool]]) -> None:
    scores, truth = np.array([float(score) for score, _ in pairs]), np.array([case for _, case in pairs])
    wins = [
        (yes > no) + 0.5 * (yes == no) for yes, no in itertools.product(scores[truth].tolist(), scores[~truth].tolist())
    ]
    assert area(scores, truth) == pytest.approx(np.mean(wins) if wins else 0.5)


@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.01, 0.1, 0.5]))
@settings(max_examples=40, deadline=None)
def test_no_more_false_positives_than_allowed(seed: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random(200) < 0.5
    scores = np.round(rng.normal(truth * 1.0, 1.0), 1)  # with ties
    found = true_positive_rate(scores, truth, rate)
    allowed = [level for level in np.unique(scores) if (scores[~truth] > level).mean() <= rate]
    assert found == pytest.approx(max((scores[truth] > level).mean() for level in allowed))


def test_the_interval_covers_the_truth_and_excludes_a_guess_where_there_is_something() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(15):
        truth = rng.random((6, 50)) < 0.5
        low, high = interval(rng.normal(0, 1, truth.shape), truth, rng)
        covered += low <= 0.5 <= high
    assert covered >= 12  # of 14 expected, and the interval is rather too wide
    truth = rng.random((6, 50)) < 0.5
    assert interval(rng.normal(truth * 1.5, 1), truth, rng)[0] > 0.6
