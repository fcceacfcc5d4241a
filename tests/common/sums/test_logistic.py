"""Logistic regression from sums equals the one with all patients in one place."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import optimize
from tests.common.sums.builders import built, federated, job_of

from salus.common.errors import JobError
from salus.common.sums.base import Measured, Totals
from salus.common.sums.logistic import Logistic

COLUMNS = 'columns = [{name = "age", centre = 60.0, scale = 10.0}, {name = "smokes", values = [0.0, 1.0]}]'
TRUTH = (-4.0, 0.05, 0.8)  # intercept, per year, for smokers


def patients(seed: int, count: int, shift: float = 0.0) -> list[list[Measured]]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        age, smokes = float(rng.normal(60 + shift, 10)), float(rng.random() < 0.4)
        odds = TRUTH[0] + TRUTH[1] * age + TRUTH[2] * smokes
        label = int(rng.random() < 1 / (1 + np.exp(-odds)))
        found.append([Measured(label, np.zeros(0, np.float32), columns={"age": age, "smokes": smokes})])
    return found


def hospitals() -> list[list[list[Measured]]]:
    return [patients(1, 60), patients(2, 90, 8.0), patients(3, 140, -6.0)]


def pooled(parts: Sequence[Sequence[Sequence[Measured]]], ridge: float) -> np.ndarray:
    """Return the coefficients by an independent optimiser, in the columns' units."""
    rows = [m for part in parts for mine in part for m in mine if all(np.isfinite(v) for v in m.columns.values())]
    x = np.array([[1.0, (m.columns["age"] - 60) / 40, m.columns["smokes"]] for m in rows])
    y = np.array([float(m.label or 0) for m in rows])

    def loss(w: np.ndarray) -> float:
        z = x @ w
        return float((np.logaddexp(0, z) - y * z).sum() + ridge / 2 * (w[1:] ** 2).sum())

    w = optimize.minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-8}).x
    return np.array([w[0] - w[1] * 60 / 40, w[1] / 40, w[2]])


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 5.0])
def test_sums_over_hospitals_give_the_pooled_coefficients(ridge: float) -> None:
    parts = hospitals()
    sums = built("logistic", task=COLUMNS, rounds=8, statistics=f"ridge = {ridge}")
    state, totals = federated(sums, parts, least=5)
    model, result = sums.model(state), sums.result(state, totals)
    assert np.allclose([model["intercept"], *model["coefficients"]], pooled(parts, ridge), atol=2e-5)
    assert result["last_step"] < 1e-6
    assert model["columns"] == ["age", "smokes = 1"]


def test_one_hospital_alone_gives_others() -> None:
    parts = hospitals()
    assert not np.allclose(pooled(parts[:1], 0.0), pooled(parts, 0.0), atol=2e-3)


def test_standard_errors_are_those_of_the_information_matrix() -> None:
    parts = hospitals()
    sums = built("logistic", task=COLUMNS, rounds=8, statistics="ridge = 0.0")
    state, totals = federated(sums, parts)
    result = sums.result(state, totals)
    rows = [m for part in parts for mine in part for m in mine]
    x = np.array([[1.0, m.columns["age"], m.columns["smokes"]] for m in rows])
    p = 1 / (1 + np.exp(-x @ np.array([result["intercept"], *result["coefficients"]])))
    expected = np.sqrt(np.diag(np.linalg.inv((x * (p * (1 - p))[:, None]).T @ x)))[1:]
    assert np.allclose(result["standard_errors"], expected, rtol=1e-3)


def test_incomplete_patients_are_left_out_and_extremes_are_cut_off() -> None:
    parts = hospitals()
    holes = [[Measured(1, np.zeros(0, np.float32), columns={"age": np.nan, "smokes": 1.0})]] * 9
    unlabelled = [[Measured(None, np.zeros(0, np.float32), columns={"age": 60.0, "smokes": 1.0})]] * 9
    sums = built("logistic", task=COLUMNS, rounds=6)
    assert federated(sums, parts)[0] == federated(sums, [*parts, holes, unlabelled])[0]
    wild = Measured(1, np.zeros(0, np.float32), columns={"age": 1e9, "smokes": 1.0})
    row = sums.row(1, [], wild)
    assert row is not None
    assert np.linalg.norm(row) <= sums.reach(1)


def test_a_column_that_separates_the_classes_stays_finite() -> None:
    rows = [
        [Measured(int(n >= 20), np.zeros(0, np.float32), columns={"age": 40.0 + n, "smokes": 0.0})] for n in range(40)
    ]
    state, totals = federated(built("logistic", task=COLUMNS, rounds=12), [rows[:20], rows[20:]])
    assert np.isfinite(state).all()
    assert totals.patients == 40


@pytest.mark.parametrize("w", [-3.0, 0.0, 0.4, 50.0])
def test_no_row_is_longer_than_its_reach(w: float) -> None:
    sums = built("logistic", task=COLUMNS, rounds=2)
    state = [w] * sums.state_size(2)
    for mine in patients(5, 200, 30.0):
        row = sums.row(2, state, mine[0])
        assert row is not None
        assert np.linalg.norm(row) <= sums.reach(2) + 1e-12
        assert np.abs(row).max() <= 1


def test_with_little_noise_the_coefficients_are_near_and_with_much_they_stay_finite() -> None:
    parts = [patients(7, 4000)]
    sums = Logistic(job_of("logistic", task=COLUMNS, rounds=6))
    rng = np.random.default_rng(0)
    for sd, near in ((2.0, True), (5000.0, False)):
        state: list[float] = []
        for step in range(1, 7):
            numbers = sums.measure(step, state, parts[0], 1)
            totals = Totals(numbers[0], numbers[1], numbers[1], numbers[2:] + rng.normal(0, sd, len(numbers) - 2), sd)
            state = sums.fold(step, state, totals)
        assert np.isfinite(state).all()
        if near:
            assert sums.model(state)["coefficients"][1] == pytest.approx(TRUTH[2], abs=0.35)


def test_more_than_two_classes_are_refused() -> None:
    job = job_of("logistic", task=COLUMNS, rounds=2)
    with pytest.raises(JobError, match="two classes"):
        Logistic(job.model_copy(update={"task": job.task.model_copy(update={"classes": ("a", "b", "c")})}))


def test_a_class_of_few_patients_of_a_site_is_not_told() -> None:
    """With one patient of a class, the first step's gradient and information gave this patient's columns exactly."""
    sums = built("logistic", task=COLUMNS, rounds=2)
    site = [
        [Measured(int(n < 5), np.zeros(0, np.float32), columns={"age": 40.0 + n, "smokes": 0.0})] for n in range(30)
    ]
    assert sums.measure(1, [], site, 5)[0] == 30
    assert sums.measure(1, [], site[5:], 5)[0] == 25  # a class of none tells nobody's columns
    assert not sums.measure(1, [], site[1:], 5).any()
    assert not sums.measure(1, [], site[:9], 5).any()


def test_a_job_of_too_many_columns_is_refused_before_its_matrix_exists() -> None:
    columns = ", ".join(f'{{name = "c{n}"}}' for n in range(3000))
    for kind in ("logistic", "cox"):
        with pytest.raises(JobError, match="Expected at most 2000000 pairs of columns"):
            built(kind, task=f"columns = [{columns}]", rounds=2)
