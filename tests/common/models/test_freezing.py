"""Jobs that train only some parameters: what is sent, what stays, and what the site checks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import tiny_job, toy_catalogue

from salus.client.data.loading import Memory, local_data
from salus.client.performance import Performance
from salus.client.private_training import PrivateTrainer
from salus.client.training import Trainer
from salus.common.cost import cost_of
from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.vectors import layout_of, read_parameters
from salus.privacy.dp.plan import Plan
from salus.privacy.imprint import imprint_layers


def job_of(*trainable: str, model: str = "cnn") -> Job:
    job = tiny_job(model=model)
    return job.model_copy(update={"task": job.task.model_copy(update={"trainable": trainable})})


def test_only_trained_parameters_are_in_the_layout_the_cost_and_the_shapes() -> None:
    whole, head = job_of(), job_of("9.", "8.")
    layout = layout_of(build_model(head.task, 0))
    assert 0 < layout.size < layout_of(build_model(whole.task, 0)).size
    assert {spec.name.split(".")[0] for spec in layout.specs} <= {"8", "9"}
    assert cost_of(head).parameters == layout.size
    assert cost_of(head).memory_bytes < cost_of(whole).memory_bytes


def test_frozen_parameters_keep_the_values_of_the_seed(tmp_path: Path) -> None:
    job = job_of("9.", "8.")
    task = make_task(job.task)
    model = build_model(job.task, job.job.seed)
    trainer = Trainer(model, layout_of(model), task, job, Performance(device="cpu"))
    data = local_data(toy_catalogue(tmp_path), job, task, Memory(2**20)).train
    start = read_parameters(model, trainer.layout)
    update = trainer.train(start, data, 3)
    assert len(update) == trainer.layout.size
    assert update.any()
    fresh = dict(build_model(job.task, job.job.seed).named_parameters())
    for name, parameter in model.named_parameters():
        frozen = not name.startswith(job.task.trainable)
        assert torch.equal(parameter.detach(), fresh[name].detach()) == frozen
        assert parameter.requires_grad != frozen
    private = PrivateTrainer(
        trainer, Plan("distributed", 1.0, 0.0, 1.0, 1, 1, 5.0, 1e-5), np.random.default_rng(1).bytes
    )
    assert len(private.direction(start, data)) == trainer.layout.size


def test_a_prefix_that_fits_nothing_is_refused_with_the_nearest() -> None:
    with pytest.raises(JobError, match=r"begins with 'layer44'.*'layer4") as refused:
        build_model(job_of("layer44", model="resnet18").task, 0)
    assert "layer4" in str(refused.value)


def test_frozen_layers_do_not_hide_a_wide_layer_behind_them() -> None:
    """A known convolution can be computed back, so a wide layer after it sees the raw input."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 64, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64 * 36, 50)
    )
    images = torch.zeros(2, 1, 8, 8)
    assert imprint_layers(model, lambda network: network(images), 2) == []
    model[0].requires_grad_(False)
    assert imprint_layers(model, lambda network: network(images), 2) == ["3 (50 outputs)"]
    model[3].requires_grad_(False)
    assert imprint_layers(model, lambda network: network(images), 2) == []
