"""The meta-classifier on plain numbers."""

import numpy as np
import pytest

from salus.privacy.audit.guessing import area
from salus.privacy.audit.properties import learn, thinned


def updates(count: int, gain: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.arange(count) % 2 == 0
    common = np.random.default_rng(9).normal(0, 5, 300)  # what all updates share says nothing
    rows = common + rng.normal(0, 1, (count, 300))
    rows[:, 7] += gain * truth
    rows[:, :3] += rng.normal(0, 20, (count, 3))  # large, and without meaning
    return rows, truth


@pytest.mark.parametrize("noisy", [False, True])
def test_a_property_is_learnt_from_shadow_updates_and_nothing_from_nothing(noisy: bool) -> None:
    rows, truth = updates(80, 4.0, 0)
    weights = learn(rows, truth, noisy=noisy)
    others, known = updates(60, 4.0, 1)
    assert area(others @ weights, known) > (0.6 if noisy else 0.9)
    others, known = updates(400, 0.0, 2)
    assert abs(area(others @ weights, known) - 0.5) < 0.12  # four standard errors


def test_shadow_updates_of_one_kind_teach_nothing() -> None:
    rows, truth = updates(10, 4.0, 0)
    assert not learn(rows, np.ones_like(truth)).any()


def test_small_tensors_stay_whole_and_large_ones_are_thinned() -> None:
    update = np.arange(30.0)
    assert thinned(update, [20, 10], 10).tolist() == [*range(0, 20, 2), *range(20, 30)]
    assert thinned(update, [30], 100).tolist() == update.tolist()
    assert len(thinned(update, [30], 7)) <= 7
