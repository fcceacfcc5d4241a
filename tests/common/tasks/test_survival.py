"""Discrete-time survival: losses, histograms of concordance and Brier score, per-site metrics, and noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulations.sample_jobs.survival import pictures, regions
from tests.tiny import CPU, Tiny, run_tiny, tiny_job

from salus.client.data.declaration import are_numbers
from salus.common.batch import Batch
from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.metrics.concordance import c_index
from salus.common.metrics.survival import Brier, Concordance
from salus.common.outcomes import Outcome
from salus.common.tasks import make_task
from salus.simulations.tcga import write_regions
from salus.simulations.testing import means_of, split_evaluator

SETTINGS = TaskSettings(
    kind="survival", model="logistic", dataset="d", times=(1.0, 2.0, 4.0), columns=({"name": "age"},)
)


def losses(labels: list[tuple[float, float]], logits: list[float]) -> list[float]:
    task = make_task(SETTINGS)
    model = lambda x: torch.tensor([logits] * len(labels))  # noqa: E731
    batch = Batch({"features": torch.zeros(len(labels), 1), "label": torch.tensor(labels)})
    return task.losses(model, batch, task.steps[0]).tolist()  # type: ignore[arg-type]


def test_the_loss_is_the_likelihood_of_what_was_seen() -> None:
    h = 1 / (1 + np.exp(-np.array([-1.0, 0.5, 2.0])))
    s = np.log(1 - h)
    found = losses(
        [(0.5, 1), (1.0, 1), (1.5, 1), (9.0, 1), (0.4, 0), (0.6, 0), (1.6, 0), (9.0, 0), (0.0, 1)], [-1.0, 0.5, 2.0]
    )
    expected = [np.log(h[0]), np.log(h[0]), s[0] + np.log(h[1]), s.sum(), 0.0, s[0], s[0] + s[1], s.sum(), np.log(h[0])]
    assert np.allclose(found, -np.array(expected), atol=1e-5)


def test_intervals_name_themselves_and_must_rise() -> None:
    assert SETTINGS.classes == ("until 1", "until 2", "until 4")
    with pytest.raises(ValueError, match="rising"):
        TaskSettings(kind="survival", model="logistic", dataset="d", times=(2.0, 1.0), columns=({"name": "age"},))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 60))
def test_the_histogram_gives_the_exact_concordance_up_to_its_bins(seed: int, count: int) -> None:
    """With risks and times at the centres of bins both must agree exactly."""
    rng = np.random.default_rng(seed)
    measure = Concordance(60.0)
    risk = torch.tensor(-7 + 10 * rng.integers(0, 251, count) / 250.0)
    time = rng.integers(0, 60, count) + 0.5
    event = rng.random(count) < 0.5
    label = torch.tensor(np.stack([time, event], axis=1))
    found = measure.value(measure.rows(risk, label).sum(dim=0).numpy())
    expected = c_index(risk.tolist(), [Outcome(float(t), bool(e)) for t, e in zip(time, event, strict=True)])
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found == pytest.approx(expected, abs=1e-9)


def test_the_brier_score_without_loss_is_the_mean_squared_error() -> None:
    rng = np.random.default_rng(0)
    time = torch.tensor(rng.integers(0, 60, 500) + 0.5)
    free = torch.tensor((rng.integers(0, 20, 500) + 0.5) / 20)
    measure = Brier(30.0, 60.0)
    label = torch.stack([time, torch.ones_like(time)], dim=1)
    found = measure.value(measure.rows(free, label).sum(dim=0).numpy())
    assert found == pytest.approx(float((((time >= 30).double() - free) ** 2).mean()), abs=1e-9)


def test_losing_patients_at_random_hardly_changes_the_brier_score() -> None:
    rng = np.random.default_rng(0)
    time, lost = rng.exponential(20, 20_000), rng.exponential(30, 20_000)
    free = torch.full((20_000,), 0.475, dtype=torch.float64)
    measure = Brier(15.0, 60.0)
    whole = torch.tensor(np.stack([time, np.ones_like(time)], axis=1))
    seen = torch.tensor(np.stack([np.minimum(time, lost), time <= lost], axis=1))
    one, two = (measure.value(measure.rows(free, label).sum(dim=0).numpy()) for label in (whole, seen))
    naive = float(((seen[:, 0] >= 15).double() - free).square().mean())
    assert one == pytest.approx(two, abs=0.01)
    assert abs(naive - one) > 0.0 or one == pytest.approx(naive)


def test_rows_stay_within_their_bounds() -> None:
    task = make_task(SETTINGS)
    label = torch.tensor([[0.5, 1.0], [9.0, 0.0], [float("nan"), 1.0]])
    outputs = torch.tensor([[1e30, -1e30, 0.0], [0.0, 0.0, 0.0], [float("nan")] * 3])
    batch = Batch({"features": torch.zeros(3, 1), "label": label})
    rows = task.rows(outputs, batch)
    assert rows.shape == (3, task.statistics_size)
    assert ((rows >= 0) & (rows <= 1)).all()
    assert (task.private_rows(outputs, batch).norm(dim=1) <= 1 + 1e-9).all()


def test_outcomes_are_measurements_and_no_classes() -> None:
    assert are_numbers([f"{n}+" for n in range(3)])
    assert not are_numbers(["1+", "x"])


def test_means_are_over_the_sites_that_have_a_metric() -> None:
    assert means_of({"a": {"c": 0.5}, "b": {"c": 1.0}, "e": {}}, ("c", "d")) == {"c_mean_of_sites": 0.75}


def test_each_hospital_has_metrics_and_the_mean_is_theirs(tmp_path: Path) -> None:
    tiny = regions(tmp_path)
    job = tiny_job("tcga-brca.toml", tiny)
    record = run_tiny(job, tiny, tmp_path / "run")
    evaluate = split_evaluator(job, tmp_path / "run", CPU)
    assert evaluate is not None
    again = evaluate(np.zeros(39 + 10, np.float32))
    assert len(evaluate.sites) == 6
    values = [found["c_index"] for found in evaluate.sites.values()]
    assert again["c_index_mean_of_sites"] == pytest.approx(np.mean(values))
    assert set(record["metrics"]) >= {"c_index", "c_index_mean_of_sites"}


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_survival_trains_under_noise(tmp_path: Path, noise: str) -> None:
    tiny = pictures(tmp_path)
    privacy = {"noise": noise, "epsilon": 20.0, "sampling_rate": 0.5, "patients_per_site": 16, "evaluation_share": 0.2}
    change = {**tiny.change, "privacy": privacy, "training": {"batch_size": 16}}
    changed = Tiny(tiny.data, options=tiny.options, change=change)
    assert "c_index" in run_tiny(tiny_job("phantom-survival.toml", changed), changed, tmp_path / "run")["metrics"]


def test_a_table_of_tcga_is_split_into_its_regions(tmp_path: Path) -> None:
    (tmp_path / "dataset_creation_scripts").mkdir()
    (tmp_path / "brca.csv").write_text("pid,age,E,T\na,1,0.0,5\nb,2,1.0,6\nc,3,0.0,7\n")
    (tmp_path / "dataset_creation_scripts" / "train_test_split.csv").write_text(
        "pid,fold,fold2\na,train,train_0\nb,test,test_1\n"
    )
    written = write_regions(tmp_path, tmp_path / "out")
    assert [path.read_text().splitlines() for path in written] == [
        ["pid,age,event,time,split", "a,1,0.0,5,train"],
        ["pid,age,event,time,split", "b,2,1.0,6,test"],
    ]
    with pytest.raises(JobError.__mro__[1], match="brca.csv"):
        write_regions(tmp_path / "out", tmp_path / "x")
