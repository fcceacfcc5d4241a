"""A forest of random structure: one exact sum of counts, the same for any division of patients over sites."""

import numpy as np
import pytest
from tests.common.sums.builders import built, federated
from tests.common.sums.tables import COLUMNS, divisions, rows

from salus.common.sums.base import Measured, Totals
from salus.common.sums.forest import Forest
from salus.common.sums.scoring import Scored

SETTINGS = "trees = 30\ndepth = 3"


def forest(settings: str = SETTINGS) -> Forest:
    sums = built("forest", task=COLUMNS, statistics=settings)
    assert isinstance(sums, Forest)
    assert isinstance(sums, Scored)
    return sums


def test_any_division_over_sites_gives_the_same_forest_to_the_last_bit() -> None:
    sums, patients = forest(), rows(100)
    states = [federated(sums, parts)[0] for parts in divisions(patients)]
    assert states[0] == states[1] == states[2]


def test_leaves_are_the_smoothed_shares_of_the_patients_in_them() -> None:
    sums, patients = forest("trees = 3\ndepth = 2\nsmoothing = 4.0"), rows(100)
    tree = sums.model(federated(sums, [patients])[0])["trees"][1]
    common = np.mean([mine[0].label for mine in patients])
    inside: list[list[int]] = [[] for _ in range(4)]
    for mine in patients:
        values, place = sums._bins.values(mine[0]), 0
        for level in (0, 1):
            node = 2**level - 1 + place
            value = values[tree["column"][node]]
            left = tree["missing_left"][node] if np.isnan(value) else value < tree["below"][node]
            place = 2 * place + (not left)
        inside[place].append(mine[0].label or 0)
    expected = [(sum(labels) + 4 * common) / (len(labels) + 4) for labels in inside]
    assert np.allclose([leaf[1] for leaf in tree["leaves"]], expected)


def test_it_predicts_patients_of_no_sum_also_with_small_cells_suppressed() -> None:
    sums, new = forest(), [mine[0] for mine in rows(300, seed=5)]
    state, totals = federated(sums, [rows(200), rows(200, seed=1)], least=5)
    assert totals.patients == 400
    assert sums.scores(sums.model(state), new)["auc"] > 0.7


def test_every_cell_has_enough_patients_or_none() -> None:
    cells = forest().measure(1, [], rows(60), 7)[2:]
    assert ((cells == 0) | (cells >= 7)).all()
    assert (cells > 0).any()


def test_a_patient_is_in_one_leaf_of_each_tree_and_noise_leaves_probabilities() -> None:
    sums, patients = forest(), rows(80)
    few = [row for mine in patients[:10] if (row := sums.row(1, [], mine[0])) is not None]
    assert np.array_equal(np.sum(few, axis=0), sums.measure(1, [], patients[:10], 1)[2:])
    for row in few:
        assert row.sum() == 30
        assert np.linalg.norm(row) == pytest.approx(sums.reach(1))
    noise = np.random.default_rng(0).normal(0, 40, 30 * 8 * 2)
    shares = np.array(sums.fold(1, [], Totals(80, 80, 80, sums.measure(1, [], patients, 1)[2:] + noise, 40.0)))
    assert ((shares > 0) & (shares < 1)).all()


def test_unlabelled_patients_count_nowhere() -> None:
    sums, nobody = forest(), Measured(None, np.zeros(0, np.float32), columns={"age": 60.0})
    assert sums.row(1, [], nobody) is None
    assert federated(sums, [rows(50)])[0] == federated(sums, [[*rows(50), [nobody]]])[0]


def test_trees_at_neighbouring_edges_tell_no_small_group_of_a_class() -> None:
    """300 trees of depth one differed by single patients: every difference of two of their counts was of one interval."""
    sums = built("forest", task='columns = [{name = "age", centre = 60.0, scale = 10.0}]', statistics="depth = 1")
    rng = np.random.default_rng(3)
    people = [
        [Measured(int(rng.random() < 0.3), np.zeros(0, np.float32), columns={"age": float(rng.normal(60, 10))})]
        for _ in range(60)
    ]
    cells = sums.measure(1, [], people, 5)[2:].reshape(-1, 2, 2)
    whole = cells[cells.sum(axis=(1, 2)) == 60]
    differences = np.abs(whole[:, None] - whole[None])[..., 0, :]
    assert ((differences == 0) | (differences >= 5)).all()
    free = sums.measure(1, [], people, 1)[2:].reshape(-1, 2, 2)
    assert ((np.abs(free[:, None] - free[None]) > 0) & (np.abs(free[:, None] - free[None]) < 5)).any(), (
        "it could not fail"
    )
