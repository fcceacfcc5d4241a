from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import tiny_job, toy_catalogue

from salus.client.data.loading import LocalData, Memory, local_data
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


def test_another_job_draws_anew_at_a_site_with_a_secret() -> None:
    """With the same draws, two jobs that differ in the chance of a flip alone differ in the few images in between."""
    one, other = tiny_job(), tiny_job(rounds=3)
    assert training_seed(one, 1, 1, b"secret") == training_seed(tiny_job(), 1, 1, b"secret")
    assert training_seed(one, 1, 1, b"secret") != training_seed(other, 1, 1, b"secret")
    assert training_seed(one, 1, 1) == training_seed(other, 1, 1)  # simulations are repeated


def test_the_order_of_training_follows_from_the_sites_secret(tmp_path: Path) -> None:
    """With batches of one image and a weight decay that erases all earlier steps, an update is one patient's gradient. Where
    the coordinator knew whose, as it knew from the job, the sums of many rounds could be solved for every image."""
    changes = {"learning_rate": 1e-3, "weight_decay": 1e3, "batch_size": 1}
    work, data = trainer(tmp_path)
    assert isinstance(data, LocalData)
    training = work.job.training.changed(optimizer="sgd", momentum=0.0).model_copy(update=changes)
    work.job = work.job.model_copy(update={"training": training})
    start = read_parameters(work.model, work.layout)

    def foretold(secret: bytes) -> int:
        """Return in how many of 20 rounds the image that a coordinator reads is the one that the job's own seed foretells."""
        right = 0
        for round_ in range(1, 21):
            local = start + work.train(start, data.train, training_seed(work.job, 1, round_, secret))
            image = local[:-2].reshape(2, -1)[0] / local[-2]
            order = torch.randperm(
                len(data.train), generator=torch.Generator().manual_seed(training_seed(work.job, 1, round_))
            )
            (wanted,) = data.train.batch(order[-1:])["image"]
            right += bool(np.abs(image - wanted.flatten().numpy()).max() < 1e-3)
        return right

    assert foretold(b"") == 20
    assert foretold(b"a secret of the site") < 5
