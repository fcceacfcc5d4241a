"""Tasks of several steps: what each may see, what it changes, and what noise costs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.builders import tiny_job, toy_catalogue
from tests.client.gan import SIZE, Gan, Networks

from salus.client.data.loading import Memory, TensorSet, local_data
from salus.client.performance import Performance
from salus.client.private_training import PrivateTrainer
from salus.client.training import Trainer
from salus.common.errors import JobError
from salus.common.tasks.base import Step
from salus.common.tasks.steps import check_steps
from salus.common.vectors import layout_of, read_parameters
from salus.privacy.dp import optimizer as optimizer_module
from salus.privacy.dp.fast import FastClipper
from salus.privacy.dp.plan import Plan
from salus.privacy.randomness import Stream

STEPS = 3


def plan(steps: int = STEPS, mode: Any = "local", rate: float = 1.0) -> Plan:
    return Plan(mode, 1.0, 0.0, rate, steps, 1, 5.0, 1e-5)


def world(folder: Path, **job: object) -> tuple[Trainer, TensorSet, Gan]:
    settings = tiny_job(**job)
    task = Gan(settings.task)
    torch.manual_seed(0)
    model = Networks()
    data = local_data(toy_catalogue(folder), settings, task, Memory(2**20)).train  # type: ignore[arg-type]
    return Trainer(model, layout_of(model), task, settings, Performance(device="cpu")), data, task  # type: ignore[arg-type]


PRIVATE = {
    "protection": "masking",
    "privacy": 'noise = "local"\nepsilon = 5.0\nsampling_rate = 0.25\npatients_per_site = 40\nsteps_per_round = 3',
}


def parts(trainer: Trainer, vector: np.ndarray) -> dict[str, np.ndarray]:
    """Return what belongs to each network."""
    named = trainer.layout.unflatten(vector.astype(np.float32))
    return {
        part: np.concatenate([values.ravel() for name, values in named.items() if name.startswith(part)])
        for part in ("generator", "discriminator")
    }


def test_steps_take_turns_and_one_without_data_sees_none(tmp_path: Path) -> None:
    trainer, data, task = world(tmp_path)
    start = read_parameters(trainer.model, trainer.layout)
    update = trainer.train(start, data, 7)
    assert np.array_equal(update, trainer.train(start, data, 7))
    assert {name: bool(part.any()) for name, part in parts(trainer, update).items()} == {
        "generator": True,
        "discriminator": True,
    }
    assert task.seen[:2] == [("discriminator", ("image", "z"), 8), ("generator", ("z",), 8)]
    assert {fields for name, fields, _ in task.seen if name == "generator"} == {("z",)}
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


def test_two_networks_are_trained_as_by_hand(tmp_path: Path) -> None:
    trainer, data, task = world(tmp_path, training='optimizer = "sgd"\nmomentum = 0.0')
    start = read_parameters(trainer.model, trainer.layout)
    update = trainer.train(start, data, 7)
    torch.manual_seed(0)
    model = Networks()
    rate = trainer.job.training.learning_rate
    shuffle, noise = (torch.Generator().manual_seed(7) for _ in range(2))
    for rows in torch.split(torch.randperm(len(data), generator=shuffle), 8):
        for step in task.steps:
            batch = {"image": data.batch(rows)["image"], "z": torch.randn(len(rows), SIZE, generator=noise)}
            task.losses(model, batch, step).mean().backward()  # type: ignore[arg-type]
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name.startswith(step.parameters):
                        parameter -= rate * parameter.grad  # type: ignore[operator]
            model.zero_grad()
    assert np.allclose(update, read_parameters(model, trainer.layout) - start, atol=1e-6)


def test_under_noise_only_the_step_that_reads_data_is_clipped_and_noised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, data, task = world(tmp_path, **PRIVATE)
    noised: list[int] = []

    def silent(values: torch.Tensor, sigma: float, stream: Stream) -> torch.Tensor:
        noised.append(values.numel())
        return values

    private = PrivateTrainer(trainer, plan(), os.urandom)
    assert isinstance(private._clipper, FastClipper)  # the discriminator runs twice
    monkeypatch.setattr(optimizer_module, "noised", silent)
    start = read_parameters(trainer.model, trainer.layout)
    task.seen.clear()
    nobody = parts(trainer, private.train(start, None))
    assert not nobody["discriminator"].any()
    assert nobody["generator"].any()
    assert [entry for entry in task.seen if entry[0] == "discriminator"] == []
    assert [entry for entry in task.seen if entry[0] == "generator"] == [("generator", ("z",), 8)] * STEPS
    discriminator = [p.numel() for n, p in trainer.model.named_parameters() if n.startswith("discriminator.")]
    assert noised == discriminator * STEPS
    everybody = parts(trainer, private.train(start, data))
    assert everybody["discriminator"].any()


def test_one_patient_moves_the_noised_step_by_the_clip_norm_at_most(tmp_path: Path) -> None:
    trainer, data, _ = world(tmp_path, **PRIVATE)
    trainer.job = trainer.job.model_copy(
        update={"privacy": trainer.job.privacy.model_copy(update={"clip_norm_l2": 0.01})}
    )
    private = PrivateTrainer(trainer, plan(), np.random.default_rng(1).bytes)
    data.by_patient = lambda: [list(range(5))]  # type: ignore[method-assign]
    moved = private.direction(read_parameters(trainer.model, trainer.layout), data)
    assert len(moved) == sum(p.numel() for n, p in trainer.model.named_parameters() if n.startswith("discriminator."))
    assert np.linalg.norm(moved) == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize("chosen", [plan(1), plan(1, "distributed")])
def test_a_round_that_is_one_noised_step_has_no_room_for_another(tmp_path: Path, chosen: Plan) -> None:
    trainer, _, _ = world(tmp_path, **PRIVATE)
    with pytest.raises(JobError, match="'generator' reads no data"):
        PrivateTrainer(trainer, chosen, os.urandom)


def test_two_steps_that_read_data_are_two_releases_and_refused(tmp_path: Path) -> None:
    trainer, _, task = world(tmp_path, **PRIVATE)
    task.steps = (Step("discriminator", "discriminator."), Step("generator", "generator."))
    with pytest.raises(JobError, match="the task has 2"):
        PrivateTrainer(trainer, plan(), os.urandom)


def _no_generator(model: Networks) -> None:
    model.generator.requires_grad_(False)


def _another(model: Networks) -> None:
    model.add_module("encoder", torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("change", "text"), [(_no_generator, "'generator' of the task has no parameter"), (_another, r"'encoder\.weight'")]
)
def test_every_parameter_belongs_to_one_step_and_every_step_has_some(
    change: Callable[[Networks], None], text: str
) -> None:
    model = Networks()
    change(model)
    with pytest.raises(JobError, match=text):
        check_steps(model, Gan(tiny_job().task))  # type: ignore[arg-type]
