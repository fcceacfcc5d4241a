"""Instance segmentation and tracking under noise, and a trained network that follows cells through an occlusion."""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.simulations.sample_jobs.instances import JOBS as WRITERS
from tests.tiny import JOBS, run_tiny, tiny_job

from salus.common.batch import Batch
from salus.common.job import TaskSettings, parse_job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.tasks.base import Step
from salus.simulations.phantom_cells import draw_clip

NOISE: Mapping[str, object] = {
    "privacy.noise": "local",
    "privacy.epsilon": 8.0,
    "privacy.patients_per_site": 5,
    "privacy.sampling_rate": 0.5,
    "training.local_epochs": None,
    "training.optimizer": None,
    "training.learning_rate": None,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_sample_job_runs_under_noise(name: str, tmp_path: Path) -> None:
    tiny = WRITERS[name](tmp_path)
    tiny = replace(tiny, change={**tiny.change, **NOISE})
    record = run_tiny(tiny_job(name, tiny), tiny, tmp_path / "run")
    assert record["sites"] == [1, 2, 3, 4, 5]
    assert tiny.metric in record["metrics"]


def task_settings() -> TaskSettings:
    values = (JOBS / "tracking-phantom.toml").read_text()
    assert tomllib.loads(values)["task"]["tracker"] == "deepsort"
    return parse_job(values).task


def clips(seed: int, count: int, side: int) -> Batch:
    """Return clips as the sample job's default chain makes them."""
    drawn = [draw_clip(np.random.default_rng([seed, number]), side) for number in range(count)]
    images = np.stack([values for values, _ in drawn])
    low, high = images.min(axis=(1, 2, 3), keepdims=True), images.max(axis=(1, 2, 3), keepdims=True)
    masks = torch.from_numpy(np.stack([mask for _, mask in drawn]).astype(np.int64))
    return Batch(
        {"image": torch.from_numpy((images - low) / (high - low)).float()[:, None], "instances": masks[:, None]}
    )


@pytest.mark.slow
def test_a_trained_network_follows_crossing_cells_better_than_the_baseline() -> None:
    settings = task_settings()
    task, model = make_task(settings), build_model(settings, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    train = clips(0, 16, settings.shape[1])
    for step in range(160):
        place = slice(step % 16, step % 16 + 1)
        optimizer.zero_grad()
        task.losses(model, train.rows(place), Step()).mean().backward()
        optimizer.step()
    held_out = clips(1, 8, settings.shape[1])
    metrics = {}
    for tracker in ("deepsort", "overlap"):
        kind = make_task(parse_job(job_text(tracker)).task)
        with torch.no_grad():
            outputs = kind.infer(model.eval(), held_out)
        metrics[tracker] = kind.metrics(kind.rows(outputs, held_out).sum(dim=0).numpy())
    assert metrics["deepsort"]["mota"] > 0.75
    assert metrics["deepsort"]["idf1"] > metrics["overlap"]["idf1"] + 0.1


def job_text(tracker: str) -> str:
    return (JOBS / "tracking-phantom.toml").read_text().replace('tracker = "deepsort"', f'tracker = "{tracker}"')
