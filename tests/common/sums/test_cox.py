"""Cox regression and the Kaplan-Meier curve from sums, held to lifelines on all patients in one place."""

import warnings

import numpy as np
import pandas as pd
import pytest
from tests.common.sums.builders import built, federated

from salus.common.errors import JobError
from salus.common.metrics.concordance import c_index
from salus.common.outcomes import Outcome, label_of, outcome_of
from salus.common.sums.base import Measured, Totals
from salus.common.sums.kaplan_meier import curve_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from lifelines import CoxPHFitter, KaplanMeierFitter

COLUMNS = 'columns = [{name = "age", centre = 60.0, scale = 10.0}, {name = "smokes", values = [0.0, 1.0]}]'


def patients(seed: int, count: int) -> list[list[Measured]]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        age, smokes = float(rng.normal(60, 10)), float(rng.random() < 0.4)
        time = rng.exponential(400 / np.exp(0.04 * (age - 60) + 0.7 * smokes))
        lost = rng.exponential(600)
        outcome = Outcome(float(np.ceil(min(time, lost, 1999.0))), bool(time <= lost and time < 1999))
        found.append([Measured(None, np.zeros(0, np.float32), columns={"age": age, "smokes": smokes}, outcome=outcome)])
    return found


PARTS = [patients(1, 60), patients(2, 90), patients(3, 140)]
EVERYBODY = [one for part in PARTS for mine in part for one in mine]


def in_intervals(interval: float) -> pd.DataFrame:
    rows = [
        {**one.columns, "time": int(one.outcome.time / interval) + 1.0, "event": one.outcome.event}
        for one in EVERYBODY
        if one.outcome
    ]
    return pd.DataFrame(rows)


def test_sums_over_hospitals_give_the_pooled_coefficients() -> None:
    sums = built("cox", task=COLUMNS, rounds=8, statistics="interval = 20.0\nhorizon = 2000.0\nridge = 0.0")
    state, totals = federated(sums, PARTS, least=1)
    found = sums.result(state, totals)
    # Efron's ties differ from Breslow's; with a jitter below an interval there are no ties, and both agree with Breslow nearly.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = CoxPHFitter().fit(in_intervals(0.5), "time", "event")
    assert np.allclose(found["coefficients"], exact.params_, atol=0.06)
    assert np.allclose(found["standard_errors"], exact.standard_errors_, rtol=0.1)
    assert found["last_step"] < 1e-6
    assert np.allclose(found["coefficients"], breslow(20.0), atol=1e-5)
    assert found["events"] == sum(one.outcome.event for one in EVERYBODY if one.outcome)
    baseline = np.array(found["cumulative_hazard"])
    assert (np.diff(baseline) >= 0).all()


def breslow(interval: float) -> np.ndarray:
    """Return the coefficients by an independent optimiser, with Breslow's ties."""
    from scipy import optimize

    table = in_intervals(interval)
    x = np.stack([(table.age - 60) / 40, table.smokes], axis=1)
    time, event = table.time.to_numpy(), table.event.to_numpy().astype(bool)

    def loss(b: np.ndarray) -> float:
        z = x @ b
        return float(sum(np.log(np.exp(z[time >= t]).sum()) - z[i] for i, t in enumerate(time) if event[i]))

    return optimize.minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-9}).x / np.array([40, 1])


def test_small_intervals_of_a_site_are_merged_and_little_changes() -> None:
    sums = built("cox", task=COLUMNS, rounds=8, statistics="interval = 20.0\nhorizon = 2000.0\nridge = 0.0")
    numbers = sums.measure(1, [], PARTS[0], 5)
    cells = numbers[2 + 2 :].reshape(100, -1)
    risk = cells[:, 1] / 2**10
    assert ((risk == 0) | (risk >= 5)).all(), "a number is of fewer than five patients"
    state, _ = federated(sums, PARTS, least=5)
    assert np.allclose(sums.model(state)["coefficients"], breslow(20.0), atol=0.1)
    assert not sums.measure(1, [], PARTS[0][:4], 5).any()


def test_the_columns_of_a_few_patients_with_events_are_not_told() -> None:
    """With one event at a site, the sum of the columns of those with events was this patient's."""
    sums = built("cox", task=COLUMNS, rounds=2, statistics="interval = 20.0\nhorizon = 2000.0")
    columns = {"age": 50.0, "smokes": 1.0}
    for events, told in (
        (0, True),
        (1, False),
        (4, False),
        (5, True),
        (15, True),
        (16, False),
        (19, False),
        (20, True),
    ):
        site = [
            [Measured(None, np.zeros(0, np.float32), columns=columns, outcome=Outcome(100.0 + n, n < events))]
            for n in range(20)
        ]
        assert bool(sums.measure(1, [], site, 5).any()) == told


def test_the_model_ranks_patients_of_no_sum() -> None:
    sums = built("cox", task=COLUMNS, rounds=6, statistics="interval = 20.0\nhorizon = 2000.0")
    state, _ = federated(sums, PARTS, least=5)
    others = [one for mine in patients(9, 200) for one in mine]
    assert 0.6 < sums.scores(sums.model(state), others)["c_index"] < 0.8
    unknown = Measured(None, np.zeros(0, np.float32), columns={"age": float("nan"), "smokes": 1.0})
    assert sums.said(sums.model(state), unknown) is None


def test_noise_is_refused() -> None:
    with pytest.raises(JobError, match="couples patients"):
        built("cox", task=COLUMNS, rounds=2, privacy='noise = "local"')


def test_concordance_is_that_of_lifelines() -> None:
    from lifelines.utils import concordance_index

    rng = np.random.default_rng(0)
    risks = rng.integers(0, 10, 120).astype(float).tolist()
    outcomes = [
        Outcome(float(t), bool(e)) for t, e in zip(rng.integers(1, 30, 120), rng.random(120) < 0.5, strict=True)
    ]
    expected = concordance_index([o.time for o in outcomes], [-r for r in risks], [o.event for o in outcomes])
    assert c_index(risks, outcomes) == pytest.approx(expected, abs=0.01)
    assert c_index([1.0], [Outcome(1.0, True)]) is None
    assert c_index([2.0, 1.0], [Outcome(1.0, True), Outcome(2.0, False)]) == 1.0


def test_the_curve_and_its_band_are_those_of_lifelines() -> None:
    sums = built("kaplan-meier", rounds=1, statistics="interval = 1.0\nhorizon = 1000.0")
    parts = [
        [
            [Measured(None, np.zeros(0, np.float32), outcome=Outcome(m.outcome.time / 2, m.outcome.event))]
            for mine in part
            for m in mine
            if m.outcome
        ]
        for part in PARTS
    ]
    state, totals = federated(sums, parts, least=1)
    found = sums.result(state, totals)["curves"]["all"]
    times = [one.outcome.time for part in parts for mine in part for one in mine if one.outcome]
    events = [one.outcome.event for part in parts for mine in part for one in mine if one.outcome]
    whole = np.floor(times) + 1
    fitted = KaplanMeierFitter().fit(whole, events, timeline=np.arange(1, 1001))
    assert np.allclose(found["survival"], fitted.survival_function_.to_numpy()[:, 0], atol=1e-9)
    band = fitted.confidence_interval_survival_function_.to_numpy()
    inside = (np.array(found["survival"]) < 1) & (np.array(found["survival"]) > 0)
    assert np.allclose(np.array(found["low"])[inside], band[inside, 0], atol=1e-6)
    assert np.allclose(np.array(found["high"])[inside], band[inside, 1], atol=1e-6)


def test_groups_have_curves_of_their_own() -> None:
    sums = built("kaplan-meier", task=COLUMNS, rounds=1, statistics='interval = 50.0\nhorizon = 2000.0\nby = "smokes"')
    state, totals = federated(sums, PARTS, least=1)
    curves = sums.result(state, totals)["curves"]
    assert set(curves) == {"smokes = 0", "smokes = 1"}
    assert curves["smokes = 1"]["survival"][5] < curves["smokes = 0"]["survival"][5]
    with pytest.raises(JobError, match="by"):
        built("kaplan-meier", task=COLUMNS, rounds=1, statistics='by = "age"')


@pytest.mark.parametrize("noise_sd", [0.0, 4.0])
def test_the_band_holds_the_true_curve_as_often_as_it_says(noise_sd: float) -> None:
    rng = np.random.default_rng(1)
    ends = np.arange(1, 11) * 100.0
    truth = np.exp(-ends / 700)
    held, narrow = 0, 0
    for _ in range(150):
        times, lost = rng.exponential(700, 300), rng.exponential(1500, 300)
        counts = np.zeros((2, 10))
        seen = np.minimum(np.minimum(times, lost), 999.9)
        event = (times <= lost) & (times < 999.9)
        np.add.at(counts, (event.astype(int), (seen / 100).astype(int)), 1.0)
        noisy = counts + rng.normal(0, noise_sd, counts.shape) if noise_sd else counts
        found = curve_of(noisy, 0.95, noise_sd)
        held += found["low"][4] <= truth[4] <= found["high"][4]
        narrow += curve_of(noisy, 0.5)["low"][4] <= truth[4] <= curve_of(noisy, 0.5)["high"][4]
    assert held / 150 > 0.9
    assert narrow / 150 < 0.75, "a band of 50 % must not hold as often: the test could not fail"


def test_outcomes_are_written_as_statisticians_do() -> None:
    assert outcome_of("538+") == Outcome(538.0, False)
    assert outcome_of(" 12.5 ") == Outcome(12.5, True)
    assert [outcome_of(text) for text in ("", "+", "-1", "1e999", "nan", "5 +x", "1" * 20)] == [None] * 7
    assert (label_of("5", "1.0"), label_of("5", "0"), label_of("5", "Dead"), label_of("5", "?")) == (
        "5",
        "5+",
        "5",
        None,
    )
    assert isinstance(Totals(1.0, 1.0, 1.0, np.zeros(1)), Totals)
