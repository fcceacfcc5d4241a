from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import tiny_job, toy_catalogue

from salus.client.data.loading import Memory, local_data
from salus.client.performance import Performance
from salus.client.training import Trainer, training_seed
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.vectors import layout_of, read_parameters


def trainer(tmp_path: Path, **job: object) -> tuple[Trainer, object]:
    settings = tiny_job(**job)
    task = make_task(settings.task)
    model = build_model(settings.task, 0)
    data = local_data(toy_catalogue(tmp_path), settings, task, Memory(2**20))
    return Trainer(model, layout_of(model), task, settings, Performance(device="cpu")), data


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_training_learns_and_depends_on_its_seed_only(tmp_path: Path, optimizer: str) -> None:
    work, data = trainer(tmp_path, training=f'optimizer = "{optimizer}"\nlocal_epochs = 5')
    start = read_parameters(work.model, work.layout)
    torch_state = torch.random.get_rng_state()
    update = work.train(start, data.train, 7)  # type: ignore[attr-defined]
    again = work.train(start, data.train, 7)  # type: ignore[attr-defined]
    assert np.array_equal(update, again)
    assert not np.array_equal(update, work.train(start, data.train, 8))  # type: ignore[attr-defined]
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    before = work.task.metrics(work.evaluate(start, data.validation))  # type: ignore[attr-defined]
    after = work.task.metrics(work.evaluate(start + update, data.validation))  # type: ignore[attr-defined]
    assert after["loss"] < before["loss"]
    assert after["auc"] > 0.9


def test_mixed_precision_learns_too(tmp_path: Path) -> None:
    work, data = trainer(tmp_path, training="local_epochs = 5")
    work.performance = Performance(device="cpu", mixed_precision=True)
    start = read_parameters(work.model, work.layout)
    update = work.train(start, data.train, 7)  # type: ignore[attr-defined]
    assert work.task.metrics(work.evaluate(start + update, data.validation))["auc"] > 0.9  # type: ignore[attr-defined]


def test_every_site_and_round_has_its_own_seed() -> None:
    job = tiny_job()
    seeds = {training_seed(job, site, round_) for site in range(1, 20) for round_ in range(1, 20)}
    assert len(seeds) == 19 * 19
    assert all(0 <= seed < 2**63 for seed in seeds)
