"""Boosted trees of random structure: exact over any division, and useful under noise on the sums of leaves."""

import numpy as np
from tests.common.sums.builders import built, federated
from tests.common.sums.tables import COLUMNS, divisions, rows

from salus.common.sums.base import Totals
from salus.common.sums.random_boosting import RandomBoosting
from salus.common.sums.scoring import Scored


def boosting() -> RandomBoosting:
    sums = built("random-boosting", task=COLUMNS, rounds=3, statistics="trees = 6\ndepth = 2")
    assert isinstance(sums, RandomBoosting)
    assert isinstance(sums, Scored)
    return sums


def test_any_division_over_sites_gives_the_same_trees_to_the_last_bit() -> None:
    sums, patients = boosting(), rows(100)
    states = [federated(sums, parts)[0] for parts in divisions(patients)]
    assert states[0] == states[1] == states[2]
    assert len(set(states[0])) > 20


def test_rows_add_up_to_the_sums_of_leaves_and_are_not_longer_than_their_reach() -> None:
    sums, patients = boosting(), rows(60)
    state, _ = federated(sums, [patients])
    for step in (1, 3):
        own = state[: sums.state_size(step)]
        found = [row for mine in patients if (row := sums.row(step, own, mine[0])) is not None]
        assert np.array_equal(np.sum(found, axis=0), sums.measure(step, own, patients, 1)[2:])
        assert max(np.linalg.norm(row) for row in found) <= sums.reach(step)
        assert all((row != 0).sum() <= 12 for row in found)


def test_leaves_of_few_patients_are_left_out() -> None:
    sums, patients = boosting(), rows(60)
    least = sums.measure(1, [], patients, 8)[2:].reshape(-1, 2)
    assert ((least[:, 1] == 0) | (least[:, 1] >= 8 / 4)).all()  # at the start each patient adds 1/4
    assert (sums.measure(1, [], patients, 1)[3::2] > least[:, 1]).any()


def test_it_predicts_under_noise_and_not_where_labels_mean_nothing() -> None:
    sums, rng, new = boosting(), np.random.default_rng(0), [mine[0] for mine in rows(300, seed=5)]

    def auc(patients: list, sd: float) -> float:  # type: ignore[type-arg]
        state: list[float] = []
        for step in range(1, 4):
            cells = sums.measure(step, state, patients, 1)[2:]
            state = sums.fold(step, state, Totals(1, 1, 1, cells + rng.normal(0, sd, len(cells)), sd))
        assert np.isfinite(state).all()
        return sums.scores(sums.model(state), new)["auc"]

    assert auc(rows(400), 3.0) > 0.68
    assert auc(rows(400), 1e5) < 0.68
