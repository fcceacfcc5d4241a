"""Tasks with several findings, grades and numbers, from a labelled folder to an update and an evaluation."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.builders import job_text

from salus.client.data.catalogue import Catalogue
from salus.client.data.loading import Memory, local_data
from salus.client.data.sources.settings import SourceOptions
from salus.client.performance import Performance
from salus.client.private_training import PrivateTrainer
from salus.client.training import Trainer
from salus.common.fit import problems_of
from salus.common.job import Job, parse_job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.vectors import layout_of, read_parameters
from salus.privacy.dp.plan import plan_of

LABELS = {
    "multilabel": ["edema|mass", "edema", "mass", "No Finding"],
    "ordinal": ["none", "mild", "severe", "mild"],
    "regression": ["12.5", "80", "41", "66"],
}
KEYS = {
    "multilabel": 'classes = ["edema", "mass"]',
    "ordinal": 'classes = ["none", "mild", "severe"]',
    "regression": 'classes = ["age"]\nlow = 0.0\nhigh = 100.0',
}
NOISE = "epsilon = 8.0\nsampling_rate = 0.5\npatients_per_site = 48"


def job_of(kind: str, privacy: str = 'noise = "none"') -> Job:
    text = job_text(privacy=privacy).replace('"classification"', f'"{kind}"')
    return parse_job(text.replace('classes = ["no", "yes"]', KEYS[kind]))


def catalogue_of(folder: Path, labels: list[str], images: int = 48) -> Catalogue:
    root = folder / "images"
    root.mkdir()
    generator = np.random.default_rng(0)
    with (root / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", "patient_id"])
        for number in range(images):
            Image.fromarray(generator.integers(0, 255, (8, 8), np.uint8)).save(root / f"{number}.png")
            rows.writerow([f"{number}.png", labels[number % len(labels)], f"p{number}"])
    catalogue = Catalogue(folder / "c.sqlite", b"s" * 16)
    catalogue.add("toy", "images", root, SourceOptions(labels="labels.csv", patient_column="patient_id"))
    return catalogue


@pytest.mark.parametrize("kind", LABELS)
def test_from_a_folder_to_an_update_and_an_evaluation(kind: str, tmp_path: Path) -> None:
    job = job_of(kind)
    catalogue, task = catalogue_of(tmp_path, LABELS[kind]), make_task(job.task)
    assert problems_of(job, catalogue.declarations.all()) == []
    data = local_data(catalogue, job, task, Memory(2**20))
    assert (len(data.train) + len(data.validation), data.left_out) == (48, {})
    model = build_model(job.task, 0)
    layout = layout_of(model)
    trainer = Trainer(model, layout, task, job, Performance(device="cpu", threads=1))
    start = read_parameters(model, layout)
    update = trainer.train(start, data.train, 1)
    metrics = task.metrics(trainer.evaluate(start + update, data.train))
    before = task.metrics(trainer.evaluate(start, data.train))
    measure = "rmse" if kind == "regression" else "loss"
    assert metrics[measure] < before[measure]


@pytest.mark.parametrize("kind", LABELS)
def test_under_noise(kind: str, tmp_path: Path) -> None:
    job = job_of(kind, NOISE)
    catalogue, task, plan = catalogue_of(tmp_path, LABELS[kind]), make_task(job.task), plan_of(job)
    assert plan is not None
    data = local_data(catalogue, job, task, Memory(2**20))
    model = build_model(job.task, 0)
    layout = layout_of(model)
    private = PrivateTrainer(Trainer(model, layout, task, job, Performance(device="cpu", threads=1)), plan, os.urandom)
    start = read_parameters(model, layout)
    assert np.isfinite(private.train(start, data.train)).all()
    assert private.left_out == {}
    assert len(private.statistics(start, data.validation)) == task.private_statistics_size


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        ("multilabel", ["edema|oedema"], "class 'mass' is not"),
        ("regression", ["young", "old"], "needs a number"),
    ],
)
def test_labels_that_do_not_fit_are_refused_before_data_are_read(
    kind: str, labels: list[str], message: str, tmp_path: Path
) -> None:
    problems = problems_of(job_of(kind), catalogue_of(tmp_path, labels, 12).declarations.all())
    assert any(message in problem.text for problem in problems)
