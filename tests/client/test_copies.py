"""Augmented copies of an image in training, without noise and with it."""

import os
from pathlib import Path

import numpy as np
import pytest
from tests.builders import tiny_job, toy_catalogue

from salus.client.data.catalogue import Catalogue
from salus.client.data.loading import Memory, local_data
from salus.client.data.tensors import TensorSet
from salus.client.performance import Performance
from salus.client.private_training import PrivateTrainer
from salus.client.training import Trainer
from salus.common.job import Job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.vectors import FloatVector, layout_of, read_parameters
from salus.privacy.dp.plan import Plan

PLAN = Plan("distributed", 1.0, 20.0, 1.0, 1, 1, 5.0, 1e-5)  # every patient takes part
RESIZE = ({"kind": "resize"}, {"kind": "rescale"})
PRIVACY = 'noise = "distributed"\nepsilon = 5.0\nsampling_rate = 0.25\npatients_per_site = 40\n'


def job_of(probability: float, copies: int) -> Job:
    job = tiny_job(protection="masking", privacy=PRIVACY, model="logistic")
    noise = {"kind": "gaussian-noise", "probability": probability, "deviation": 1.0}
    return job.model_copy(update={"task": job.task.changed(transforms=(*RESIZE, noise), copies=copies)})


def trainer_of(catalogue: Catalogue, job: Job) -> tuple[Trainer, TensorSet]:
    task = make_task(job.task)
    model = build_model(job.task, 0)
    trainer = Trainer(model, layout_of(model), task, job, Performance(device="cpu"))
    return trainer, local_data(catalogue, job, task, Memory(2**24)).train


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return toy_catalogue(tmp_path)


def direction(catalogue: Catalogue, probability: float, copies: int) -> FloatVector:
    trainer, data = trainer_of(catalogue, job_of(probability, copies))
    start = read_parameters(trainer.model, trainer.layout)
    private = PrivateTrainer(trainer, PLAN, os.urandom)
    found = private.direction(start, data)
    assert not private.left_out
    return found


def test_copies_of_an_image_are_one_patients_part_of_a_private_step(catalogue: Catalogue) -> None:
    """Copies that happen to be equal change nothing; copies that differ count as their mean, clipped once."""
    alone = direction(catalogue, 0.0, 1)
    assert np.allclose(direction(catalogue, 0.0, 3), alone, rtol=0, atol=1e-5)
    changed = direction(catalogue, 1.0, 3)
    assert not np.allclose(changed, alone, rtol=0, atol=1e-3)
    assert np.linalg.norm(changed) <= 40 * 1.0 + 1e-6  # 40 patients, each of norm at most the clip norm


def test_every_private_step_draws_anew(catalogue: Catalogue) -> None:
    trainer, data = trainer_of(catalogue, job_of(1.0, 1))
    start = read_parameters(trainer.model, trainer.layout)
    private = PrivateTrainer(trainer, PLAN, os.urandom)
    assert not np.array_equal(private.direction(start, data), private.direction(start, data))


def test_without_noise_a_round_can_be_repeated_and_another_secret_draws_otherwise(catalogue: Catalogue) -> None:
    trainer, data = trainer_of(catalogue, job_of(1.0, 2))
    start = read_parameters(trainer.model, trainer.layout)
    first, again, other = (trainer.train(start, data, seed) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
