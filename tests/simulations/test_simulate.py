import json
from pathlib import Path

import numpy as np
import pytest
from tests.builders import tiny_job, write_npz

from salus.client.data.preparing import Item, Preparer
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.tensors import TensorSet
from salus.client.performance import Performance
from salus.client.training import Trainer
from salus.common.declaration import target_of
from salus.common.job import load_job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.vectors import layout_of, read_parameters
from salus.simulations.simulate import simulate
from salus.simulations.virtual import CENTRAL, make_hospitals, open_catalogue

JOBS = Path(__file__).resolve().parents[2] / "simulations" / "jobs"
CPU = Performance(device="cpu")
HEART = SourceOptions(
    label_column="num",
    positive_above=0,
    missing=("", "?", "-9", "-9.0"),
    columns=(
        "age",
        "sex",
        "cp",
        "trestbps",
        "chol",
        "fbs",
        "restecg",
        "thalach",
        "exang",
        "oldpeak",
        "slope",
        "ca",
        "thal",
        "num",
    ),
)


def test_a_simulation_learns_and_reports(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "toy.npz", images=100)
    result = simulate(
        tiny_job(rounds=4), data, sites=4, partition="iid", seed=0, folder=tmp_path / "s", options=SourceOptions(),
        performance=CPU, workers=2,
    )  # fmt: skip
    assert result.metrics["auc"] > 0.95
    assert len(result.rounds) == 4
    assert result.model.exists()
    assert result.to_json().keys() >= {"metrics", "rounds", "seconds", "peak_rss_mb"}


def test_the_number_of_worker_processes_does_not_change_the_model(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "toy.npz", images=60)
    models = []
    for workers in (1, 2):
        result = simulate(
            tiny_job(rounds=2, model="cnn"), data, sites=3, partition="dirichlet:1", seed=5, workers=workers,
            folder=tmp_path / f"s{workers}", options=SourceOptions(), performance=Performance(device="cpu", threads=1),
        )  # fmt: skip
        models.append(result.model.read_bytes())
    assert models[0] == models[1]


def test_no_patient_is_in_two_places(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "toy.npz", images=50)
    make_hospitals(tiny_job(), data, SourceOptions(), sites=3, partition="iid", seed=0, folder=tmp_path)
    keys = [{image.key for image in open_catalogue(tmp_path, site).images("toy")} for site in (CENTRAL, 1, 2, 3)]
    assert sum(map(len, keys)) == len(set().union(*keys)) == 100
    assert all(key.startswith("test/") for key in keys[0])


@pytest.mark.shared_data
@pytest.mark.slow
def test_pneumonia_reaches_its_auc(tmp_path: Path, shared_data: Path) -> None:
    result = simulate(
        load_job(JOBS / "pneumonia.toml"), shared_data / "pneumoniamnist", sites=8, partition="dirichlet:0.5", seed=0,
        folder=tmp_path, options=SourceOptions(), performance=CPU,
    )  # fmt: skip
    assert result.metrics["auc"] >= 0.94


def pooled_auc(folder: Path, sites: int) -> float:
    """Train on all hospitals' training patients together and return the AUC on the same test patients."""
    job = load_job(JOBS / "heart-disease.toml")
    task = make_task(job.task)

    def items(numbers: range | list[int]) -> TensorSet:
        catalogues = [open_catalogue(folder, number) for number in numbers]
        labelled = [
            Item(image, target)
            for catalogue in catalogues
            for image in catalogue.images(job.task.dataset)
            if (target := target_of(image.label, job.task.classes)) is not None
        ]
        return TensorSet(labelled, Preparer(catalogues[0].source(job.task.dataset), task), 2**30)

    model = build_model(job.task, 0)
    trainer = Trainer(model, layout_of(model), task, job, CPU)
    parameters, train = read_parameters(model, trainer.layout), items(range(1, sites + 1))
    for epoch in range(job.job.rounds):
        parameters = parameters + trainer.train(parameters, train, epoch)
    return task.metrics(trainer.evaluate(parameters, items([CENTRAL])))["auc"]


@pytest.mark.shared_data
@pytest.mark.parametrize("seed", [0, 1])
def test_heart_disease_in_four_hospitals_is_as_good_as_pooled(tmp_path: Path, shared_data: Path, seed: int) -> None:
    result = simulate(
        load_job(JOBS / "heart-disease.toml"), shared_data / "heart_disease", sites=4, partition="group", seed=seed,
        folder=tmp_path, options=HEART, performance=CPU,
    )  # fmt: skip
    pooled = pooled_auc(tmp_path, 4)
    # The AUC of 180 test patients has a standard error of .025; the two models see the same ones, so they are closer.
    assert result.metrics["auc"] == pytest.approx(pooled, abs=0.015)
    assert pooled > 0.8
    assert np.isfinite(result.metrics["loss"])


@pytest.mark.shared_data
def test_the_odds_of_heart_disease_over_four_hospitals(tmp_path: Path, shared_data: Path) -> None:
    result = simulate(
        load_job(JOBS / "heart-disease-odds.toml"), shared_data / "heart_disease", sites=4, partition="group", seed=0,
        folder=tmp_path, options=HEART, performance=CPU,
    )  # fmt: skip
    found = result.statistics
    assert isinstance(found["last_step"], float)
    assert found["last_step"] < 1e-6
    effects = dict(zip(found["columns"], found["coefficients"], strict=True))  # type: ignore[call-overload]
    errors = dict(zip(found["columns"], found["standard_errors"], strict=True))  # type: ignore[call-overload]
    for name in ("sex = 1", "exang = 1", "oldpeak"):  # well known, and clear in these data
        assert effects[name] > 2 * errors[name]
    assert json.loads(result.model.read_bytes())["context"] == "salus/sums-model/1"
