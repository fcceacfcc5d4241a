"""Least-squares machines from one sum: the closed form on pooled rows, whatever the division, and a bound for each patient."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.common.sums.builders import built, federated, hospitals, job_of
from tests.common.sums.tables import COLUMNS, divisions, rows

from salus.common.errors import JobError
from salus.common.sums import sums_of
from salus.common.sums.base import Measured, Totals, cells_of
from salus.common.sums.least_squares import LeastSquares
from salus.common.sums.questions import questions_of
from salus.common.sums.scoring import Scored

SMALL = "random_features = 20\nridge = 0.7"
NOTHING = np.zeros(0, np.float32)


def small(**changes: Any) -> LeastSquares:
    found = built("least-squares", **{"statistics": SMALL, "task": COLUMNS, **changes})
    assert isinstance(found, LeastSquares)
    return found


def inputs_of(image: Measured) -> list[float]:
    age, pain, st_ = (image.columns[name] for name in ("age", "pain", "st"))
    found = [(age - 60) / 10, *(float(pain == value) for value in (1, 2, 4)), 0.0 if math.isnan(st_) else st_ - 1]
    return [min(4.0, max(-4.0, value)) for value in found]


def margin(model: dict[str, Any], image: Measured) -> float:
    """Return what a model says, from its JSON alone."""
    angles = np.array(model["frequencies"]) @ inputs_of(image)
    waves = np.array(model["cosines"]) @ np.cos(angles) + np.array(model["sines"]) @ np.sin(angles)
    return float(model["intercept"] + waves / math.sqrt(len(angles)))


def test_the_model_is_the_ridge_regression_of_all_rows_in_one_place() -> None:
    patients, sums = rows(150), small()
    state, totals = federated(sums, [patients[:60], patients[60:]])
    model = sums.model(state)
    angles = np.array([np.array(model["frequencies"]) @ inputs_of(image) for (image,) in patients])
    features = np.hstack([np.cos(angles), np.sin(angles)]) / math.sqrt(angles.shape[1])
    y = np.array([1.0 if image.label else -1.0 for (image,) in patients])
    # The penalty as further rows: least squares by another way than normal equations, without a penalty of the constant.
    design = np.vstack([np.hstack([np.ones((150, 1)), features]), np.eye(21)[1:] * math.sqrt(0.7)])
    wanted, *_ = np.linalg.lstsq(design, np.concatenate([y, np.zeros(20)]), rcond=None)
    assert np.allclose([model["intercept"], *model["cosines"], *model["sines"]], wanted, atol=1e-5)
    assert totals.patients == 150


def test_any_division_gives_the_same_bits() -> None:
    states = [federated(small(), parts)[0] for parts in divisions(rows(120))]
    assert states[0] == states[1] == states[2]


@given(
    age=st.floats(-1e6, 1e6),
    pain=st.sampled_from([1.0, 2.0, 3.0, math.nan]),
    other=st.floats(allow_nan=True, allow_infinity=True),
    label=st.integers(0, 1),
    features=st.sampled_from([8, 20, 100]),
)
def test_no_row_is_longer_than_the_public_bound(
    age: float, pain: float, other: float, label: int, features: int
) -> None:
    sums = small(statistics=f"random_features = {features}")
    row = sums.row(1, [], Measured(label, NOTHING, columns={"age": age, "pain": pain, "st": other}))
    assert row is not None
    assert len(row) == cells_of(sums, 1)
    assert np.abs(row).max() <= 1
    assert np.linalg.norm(row) <= sums.reach(1)
    assert np.linalg.norm(row) >= 0.8 * sums.reach(1), "a bound far above the rows would waste noise"


def test_a_kernel_learns_what_no_line_can() -> None:
    rng = np.random.default_rng(3)
    points = rng.uniform(-1, 1, size=(400, 2))
    people = [[Measured(int(a * b > 0), NOTHING, columns={"a": float(a), "b": float(b)})] for a, b in points]
    columns = 'columns = [{name = "a", scale = 0.6}, {name = "b", scale = 0.6}]'
    kernel, line = (built(kind, rounds=n, task=columns) for kind, n in (("least-squares", 1), ("logistic", 5)))
    assert isinstance(kernel, Scored)
    assert isinstance(line, Scored)
    auc = [
        sums.scores(sums.model(federated(sums, [people[:300]])[0]), [image for (image,) in people[300:]])["auc"]  # type: ignore[attr-defined]
        for sums in (kernel, line)
    ]
    assert auc[0] > 0.95
    assert auc[1] < 0.7


def test_what_it_says_follows_from_the_json_and_a_missing_value_is_the_centre() -> None:
    sums = small()
    patients = rows(80)
    model = sums.model(federated(sums, [patients])[0])
    for (image,) in patients[:10]:
        said = sums.said(model, image)
        assert said is not None
        assert said.label == ("yes" if margin(model, image) > 0 else "no")
        assert said.probabilities["yes"] == pytest.approx(1 / (1 + math.exp(-2 * margin(model, image))))
    known = {"age": 50.0, "pain": 2.0}
    assert sums.said(model, Measured(None, NOTHING, columns=known)) == sums.said(
        model, Measured(None, NOTHING, columns={**known, "st": 1.0})
    )


def test_a_site_with_few_patients_of_a_class_adds_nothing() -> None:
    patients = rows(60)
    sick = [mine for mine in patients if mine[0].label == 1]
    well = [mine for mine in patients if mine[0].label == 0]
    sums = small()
    assert not sums.measure(1, [], [*well[:9], *sick[:4]], 5).any()
    assert sums.measure(1, [], [*well[:9], *sick[:5]], 5)[0] == 14
    assert sums.measure(1, [], well[:9], 5)[0] == 9
    assert not sums.measure(1, [], well[:4], 5).any()


def test_patients_without_a_usable_image_do_not_count_as_patients_of_a_class() -> None:
    sums, rng = built("least-squares", statistics=SMALL), np.random.default_rng(0)

    def patients(label: int, count: int, factor: float = 1.0) -> list[list[Measured]]:
        return [[Measured(label, (factor * rng.normal(size=(1, 8, 8))).astype(np.float32))] for _ in range(count)]

    well, unusable = patients(0, 9), patients(1, 4, math.nan)
    assert not sums.measure(1, [], [*well, *patients(1, 1), *unusable], 5).any(), "the row of one patient follows"
    assert sums.measure(1, [], [*well, *patients(1, 5), *unusable], 5)[0] == 14


def test_noise_gives_a_finite_small_model_and_images_of_no_label_are_left_out() -> None:
    sums = small()
    numbers = np.random.default_rng(0).normal(0, 50, cells_of(sums, 1))
    state = sums.fold(1, [], Totals(100.0, 100.0, 100.0, numbers, 50.0))
    assert np.isfinite(state).all()
    assert np.linalg.norm(state) < 10
    assert sums.row(1, [], Measured(None, NOTHING, columns={"age": 1.0})) is None


def test_images_are_described_by_their_intensities() -> None:
    sums = built("least-squares", statistics="random_features = 20\nkernel_width = 0.2\nridge = 0.1")
    assert isinstance(sums, LeastSquares)
    people = [patient for hospital in hospitals() for patient in hospital]
    model = sums.model(federated(sums, [people])[0])
    assert sums.scores(model, [image for mine in people for image in mine])["auc"] > 0.7
    assert sums.said(model, Measured(None, NOTHING)) is None


def test_more_than_two_classes_and_another_seed() -> None:
    with pytest.raises(JobError, match="two classes"):
        sums_of(job_of("least-squares", task=COLUMNS).model_copy(
            update={"task": job_of("least-squares").task.model_copy(update={"classes": ("a", "b", "c")})}
        ))  # fmt: skip
    job = job_of("least-squares", task=COLUMNS)
    other = job.model_copy(update={"job": job.job.model_copy(update={"seed": 77})})
    assert questions_of(job, 5) != questions_of(other, 5)
