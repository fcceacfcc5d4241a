"""Boosted trees from sums are those of all patients in one place, and those of a plain implementation on pooled histograms."""

import math

import numpy as np
import pytest
from tests.common.sums.builders import built, federated, job_of
from tests.common.sums.tables import COLUMNS, divisions, rows

from salus.common.errors import JobError
from salus.common.sums.base import Totals
from salus.common.sums.boosting import Boosting
from salus.common.sums.scoring import Scored

TREES, DEPTH, RATE, L2, LIGHTEST, INTERVALS = 4, 3, 0.3, 0.7, 0.5, 8
SETTINGS = f"trees = {TREES}\ndepth = {DEPTH}\nintervals = {INTERVALS}\nlearning_rate = {RATE}\nl2 = {L2}"
SETTINGS += f"\nmin_child_weight = {LIGHTEST}"


def boosting(settings: str = SETTINGS, rounds: int = TREES * DEPTH) -> Boosting:
    sums = built("boosting", task=COLUMNS, rounds=rounds, statistics=settings)
    assert isinstance(sums, Boosting)
    return sums


def plain(sums: Boosting, patients: list, trees: int) -> list:  # type: ignore[type-arg]
    """Return the log-odds of every patient by recursion over sets of patients and values, without any histogram."""
    bins = sums._bins
    x = np.array([bins.values(mine[0]) for mine in patients])
    y = np.array([mine[0].label for mine in patients], dtype=float)
    margin = np.zeros(len(y))

    def strength(g: float, h: float) -> float:
        return g**2 / (h + L2)

    def grow(inside: np.ndarray, depth: int, g: np.ndarray, h: np.ndarray, out: np.ndarray) -> None:
        best, found = 0.0, None
        whole = strength(g[inside].sum(), h[inside].sum())
        for column, edges in enumerate(bins.edges):
            for missing_left in (False, True):
                for edge in edges:
                    hole = np.isnan(x[:, column])
                    left = inside & np.where(hole, missing_left, x[:, column] < edge)
                    right = inside & ~left
                    if min(h[left].sum(), h[right].sum()) < LIGHTEST:
                        continue
                    gain = strength(g[left].sum(), h[left].sum()) + strength(g[right].sum(), h[right].sum()) - whole
                    if gain > best:
                        best, found = gain, (left, right)
        if depth == 0 or found is None:
            out[inside] = -RATE * g[inside].sum() / (h[inside].sum() + L2)
            return
        for side in found:
            grow(side, depth - 1, g, h, out)

    for _ in range(trees):
        p = np.array([1 / (1 + math.exp(-m)) for m in margin])
        g, h = np.rint((p - y) * 2**24) / 2**24, np.rint(p * (1 - p) * 2**24) / 2**24
        out = np.zeros(len(y))
        grow(np.ones(len(y), dtype=bool), DEPTH, g, h, out)
        margin = margin + out
    return list(margin)


def test_any_division_over_sites_gives_the_same_trees_to_the_last_bit() -> None:
    sums, patients = boosting(), rows(200)
    states = [federated(sums, parts)[0] for parts in divisions(patients)]
    assert states[0] == states[1] == states[2]
    assert states[0] != federated(sums, [patients[:-1]])[0]  # one patient less is another model


def test_the_trees_are_those_of_a_plain_implementation_on_all_patients() -> None:
    sums, patients = boosting(), rows(150, seed=3)
    state, _ = federated(sums, divisions(patients)[2])
    model = sums.model(state)
    ours = [float(np.diff(sums._logits(model, mine[0]))[0]) for mine in patients]
    assert ours == plain(sums, patients, TREES)
    assert sum(model["importance"].values()) == pytest.approx(1)
    assert model["importance"]["st"] > 0.1


def test_small_cells_are_merged_and_small_nodes_left_out() -> None:
    sums, patients, least = boosting(), rows(60), 9
    state, _ = federated(sums, [patients])
    for step, known in ((1, []), (TREES * DEPTH, state)):
        own = known[: sums.state_size(step)]
        numbers = sums.measure(step, own, patients, least)
        cells = numbers[2:].reshape(-1, sums._bins.cells, 2)
        exact = sums.measure(step, own, patients, 1)[2:].reshape(cells.shape)
        for node, one in zip(cells, exact, strict=True):
            # A patient adds at most 1/4 to the second number, and about that much in the first tree.
            for start, stop in zip(sums._bins.starts[:-1], sums._bins.starts[1:], strict=True):
                h = node[start:stop, 1]
                assert h.sum() == 0 or h.sum() == pytest.approx(one[start:stop, 1].sum())
                assert h.sum() == 0 or step > 1 or h.sum() >= least / 4
    assert not sums.measure(1, [], patients[: least - 1], least).any()
    merged = sums.measure(1, [], patients, least)[2:].reshape(-1, 2)[: len(sums._bins.edges[0]) + 2]
    assert len(np.unique(merged[:, 1])) < len(np.unique(sums.measure(1, [], patients, 1)[2:].reshape(-1, 2)[:10, 1]))


@pytest.mark.parametrize("step", [1, 2, 12])
def test_no_row_is_longer_than_its_reach(step: int) -> None:
    sums, patients = boosting(), rows(80)
    state, _ = federated(sums, [patients])
    for mine in patients:
        row = sums.row(step, state[: sums.state_size(step)], mine[0])
        assert row is not None
        assert np.linalg.norm(row) <= sums.reach(step)
        assert np.abs(row).max() <= 1
        assert (row != 0).sum() <= 2 * len(sums._bins.names)


def test_rows_are_the_histograms_of_one_patient() -> None:
    sums, patients = boosting(), rows(40)
    state, _ = federated(sums, [patients])
    step = 9
    own = state[: sums.state_size(step)]
    rows_ = [sums.row(step, own, mine[0]) for mine in patients]
    assert np.array_equal(
        np.sum([row for row in rows_ if row is not None], axis=0), sums.measure(step, own, patients, 1)[2:]
    )


def test_noise_leaves_finite_trees() -> None:
    sums, patients, state = boosting(), rows(60), []
    rng = np.random.default_rng(0)
    for step in range(1, sums.steps + 1):
        numbers = sums.measure(step, state, patients, 1)
        noise = rng.normal(0, 50, len(numbers) - 2)
        state = sums.fold(step, state, Totals(60, 60, 60, numbers[2:] + noise, 50.0))
    assert np.isfinite(state).all()


def test_it_predicts_patients_of_no_sum_and_says_both_classes() -> None:
    sums = boosting()
    assert isinstance(sums, Scored)
    state, _ = federated(sums, [rows(400)])
    model, new = sums.model(state), rows(300, seed=5)
    assert sums.scores(model, [mine[0] for mine in new])["auc"] > 0.7
    assert sums.scores(model, []) == {}
    said = sums.said(model, new[0][0])
    assert said is not None


def test_what_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(JobError, match="columns"):
        built("boosting", rounds=60)
    with pytest.raises(JobError, match="rounds = 12"):
        boosting(rounds=11)
    many = ", ".join(f'{{name = "c{n}"}}' for n in range(100))
    with pytest.raises(JobError, match="numbers in one step"):
        built("boosting", task=f"columns = [{many}]", rounds=6, statistics="trees = 1\ndepth = 6\nintervals = 64")
    job = job_of("boosting", task=COLUMNS, rounds=60)
    with pytest.raises(JobError, match="two classes"):
        Boosting(job.model_copy(update={"task": job.task.model_copy(update={"classes": ("a", "b", "c")})}))
