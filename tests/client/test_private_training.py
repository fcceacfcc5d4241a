"""The private trainer, measured from outside: how far one patient moves it, how much noise it adds, and what mutants change."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant
from scipy import stats
from tests.builders import tiny_job, toy_catalogue

from salus.client import private_training
from salus.client.data.loading import Memory, local_data
from salus.client.data.tensors import TensorSet, Use
from salus.client.performance import Performance
from salus.client.private_training import PrivateTrainer
from salus.client.training import Trainer
from salus.common.batch import Batch
from salus.common.errors import DataError
from salus.common.estimates import Estimate
from salus.common.job import Job
from salus.common.models import build_model
from salus.common.progress import REPEAT_S, Progress, Reporter
from salus.common.tasks import make_task
from salus.common.vectors import layout_of, read_parameters
from salus.privacy.dp import gaussian as gaussian_module
from salus.privacy.dp import optimizer as optimizer_module
from salus.privacy.dp.accounting import renyi_epsilon
from salus.privacy.dp.gaussian import noised
from salus.privacy.dp.optimizer import PatientOptimizer
from salus.privacy.dp.plan import Plan, plan_of, spent
from salus.privacy.randomness import Stream

ALPHA = 1e-6
SGD = 'optimizer = "sgd"\nmomentum = 0.0\nlearning_rate = 1.0\n'
PRIVACY = """
noise = "{noise}"
epsilon = 5.0
sampling_rate = 0.25
patients_per_site = 40
spare_rounds = 0.0
"""


def job_of(noise: str = "local") -> Job:
    more = "steps_per_round = 4\n" if noise == "local" else ""
    text = tiny_job(protection="masking", privacy=PRIVACY.format(noise=noise) + more, model="logistic")
    training = text.training.changed(optimizer="sgd", momentum=0.0, learning_rate=1.0)
    return text.model_copy(update={"training": training})


@pytest.fixture
def world(tmp_path: Path) -> tuple[Trainer, TensorSet, Plan]:
    job = job_of()
    task = make_task(job.task)
    model = build_model(job.task, 0)
    trainer = Trainer(model, layout_of(model), task, job, Performance(device="cpu"))
    plan = plan_of(job)
    assert plan is not None
    return trainer, local_data(toy_catalogue(tmp_path), job, task, Memory(2**24)).train, plan


def noise_scale(trainer: Trainer, plan: Plan, data: TensorSet | None = None) -> tuple[float, int]:
    """Return the noise's standard deviation in units of what the plan says, and how many values it was measured on.

    With learning rate 1 and no momentum an update without patients is minus the sum of its steps' noise, each divided by
    the expected number of patients.
    """
    start = read_parameters(trainer.model, trainer.layout)
    updates = [PrivateTrainer(trainer, plan, os.urandom).train(start, data) for _ in range(12)]
    privacy = trainer.job.privacy
    unit = plan.noise_multiplier * privacy.clip_norm_l2 * np.sqrt(plan.steps) / (privacy.sampling_rate * 40)
    values = np.concatenate(updates) / unit
    return float(np.sqrt((values**2).mean())), len(values)


def is_the_plans(scale: float, count: int) -> bool:
    """Chi-square test of a standard deviation of one."""
    statistic = scale**2 * count
    return bool(2 * min(stats.chi2.cdf(statistic, count), stats.chi2.sf(statistic, count)) > ALPHA)


def test_an_update_carries_exactly_the_plans_noise_with_and_without_patients(
    world: tuple[Trainer, TensorSet, Plan],
) -> None:
    trainer, _, plan = world
    assert is_the_plans(*noise_scale(trainer, plan))


def test_one_step_is_sent_as_it_is_whatever_the_jobs_optimizer(world: tuple[Trainer, TensorSet, Plan]) -> None:
    """Its size is the server's to choose; an adaptive optimiser's first step would be no more than the signs of the noise."""
    trainer, _, plan = world
    settings = trainer.job.training.changed(optimizer="adamw", learning_rate=1e-3)
    trainer.job = trainer.job.model_copy(update={"training": settings})
    assert is_the_plans(*noise_scale(trainer, replace(plan, steps=1)))
    assert not is_the_plans(*noise_scale(trainer, plan))


def _no_noise(values: torch.Tensor, sigma: float, stream: Stream) -> torch.Tensor:
    return values


def _half_noise(values: torch.Tensor, sigma: float, stream: Stream) -> torch.Tensor:
    return noised(values, sigma / 2, stream)


def _double_noise(values: torch.Tensor, sigma: float, stream: Stream) -> torch.Tensor:
    """As if noise were added in each of four micro-batches."""
    return noised(values, sigma * 2, stream)


@pytest.mark.parametrize("mutant", [_no_noise, _half_noise, _double_noise])
def test_other_noise_than_the_plans_is_caught(
    world: tuple[Trainer, TensorSet, Plan], mutant: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, _, plan = world
    monkeypatch.setattr(optimizer_module, "noised", mutant)
    assert not is_the_plans(*noise_scale(trainer, plan))


def test_noise_is_added_once_a_step_however_many_micro_batches(
    world: tuple[Trainer, TensorSet, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, data, plan = world
    trainer.job = trainer.job.model_copy(update={"training": trainer.job.training.model_copy(update={"batch_size": 1})})
    calls: list[int] = []

    def counted(values: torch.Tensor, sigma: float, stream: Stream) -> torch.Tensor:
        calls.append(values.numel())
        return noised(values, sigma, stream)

    monkeypatch.setattr(optimizer_module, "noised", counted)
    PrivateTrainer(trainer, plan, os.urandom).train(read_parameters(trainer.model, trainer.layout), data)
    assert len(calls) == plan.steps * len(list(trainer.model.parameters()))


def test_two_sites_never_share_their_noise(
    world: tuple[Trainer, TensorSet, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, _, plan = world
    start = read_parameters(trainer.model, trainer.layout)

    def correlation(random: Callable[[int], bytes]) -> float:
        a, b = (PrivateTrainer(trainer, plan, random).train(start, None) for _ in range(2))
        return abs(float(np.corrcoef(a, b)[0, 1]))

    limit = 6 / np.sqrt(trainer.layout.size)
    assert correlation(os.urandom) < limit
    assert correlation(lambda count: bytes(count)) > limit  # a mutant: every site begins from the same seed


def test_one_patient_moves_a_step_by_the_clip_norm_at_most_and_many_images_count_once(tmp_path: Path) -> None:
    """Forty images of forty patients, and the same images all of one patient: the sum is bounded by patients, not images."""
    job = job_of("distributed")
    task = make_task(job.task)
    model = build_model(job.task, 0)
    signs: list[Progress] = []
    reporter = Reporter(signs.append, iter(range(0, 10**6, int(REPEAT_S))).__next__)
    trainer = Trainer(model, layout_of(model), task, job, Performance(device="cpu"), reporter=reporter)
    plan = plan_of(job)
    assert plan is not None
    everybody = Plan("distributed", plan.noise_multiplier, 0.0, 1.0, 1, 1, 5.0, 1e-5)
    data = local_data(toy_catalogue(tmp_path), job, task, Memory(2**24)).train
    private = PrivateTrainer(trainer, everybody, os.urandom)
    start = read_parameters(model, trainer.layout)
    many = private.direction(start, data)
    assert signs, "each batch is a sign of the work, so that nobody takes it for stuck"
    data.by_patient = lambda: [list(range(len(data)))]  # type: ignore[method-assign]
    one = private.direction(start, data)
    assert np.linalg.norm(one) <= 1.0 + 1e-5
    assert np.linalg.norm(many) > 2.0
    data.by_patient = lambda: []  # type: ignore[method-assign]
    assert not private.direction(start, data).any()


def test_the_sample_is_drawn_anew_each_time(world: tuple[Trainer, TensorSet, Plan]) -> None:
    trainer, data, plan = world
    private = PrivateTrainer(trainer, plan, os.urandom)
    start = read_parameters(trainer.model, trainer.layout)
    directions = [private.direction(start, data) for _ in range(6)]
    assert len({direction.tobytes() for direction in directions}) > 1


def test_statistics_count_each_patient_at_most_once_and_are_noised(world: tuple[Trainer, TensorSet, Plan]) -> None:
    trainer, data, plan = world
    start = read_parameters(trainer.model, trainer.layout)
    silent = Plan("distributed", plan.noise_multiplier, 20.0, plan.sampling_rate, 1, 1, 5.0, 1e-5)
    plain = PrivateTrainer(trainer, silent, os.urandom).statistics(start, data)
    # Rounded to single precision, a sum over many patients would move by more than one of them may.
    assert plain.dtype == np.float64
    accuracy = trainer.task.private_metrics(plain.astype(np.float64), 1e-9)["accuracy"]
    assert isinstance(accuracy, Estimate)
    assert accuracy.value == pytest.approx(trainer.task.metrics(trainer.evaluate(start, data))["accuracy"], abs=1e-5)
    data.by_patient = lambda: [list(range(len(data)))]  # type: ignore[method-assign]
    assert np.linalg.norm(PrivateTrainer(trainer, silent, os.urandom).statistics(start, data)) <= 1 + 1e-6
    noise = np.concatenate([PrivateTrainer(trainer, plan, os.urandom).statistics(start, None) for _ in range(30)])
    assert is_the_plans(float(np.sqrt((noise**2).mean())) / plan.evaluation_noise_multiplier, len(noise))


def test_opacus_accountant_attached_to_our_optimizer_says_what_ours_does(
    world: tuple[Trainer, TensorSet, Plan],
) -> None:
    trainer, _, plan = world
    optimizer = PatientOptimizer(
        torch.optim.SGD(trainer.model.parameters(), 0.1),
        noise_multiplier=1.1,
        clip_norm_l2=1.0,
        expected_patients=10.0,
        stream=Stream(os.urandom),
    )
    accountant = RDPAccountant()
    optimizer.attach_step_hook(accountant.get_optimizer_hook_fn(sample_rate=0.05))
    for _ in range(50):
        optimizer.zero_grad(set_to_none=True)
        optimizer.step()
    ours = plan.charge("train").model_copy(update={"noise_multiplier": 1.1, "sampling_rate": 0.05, "count": 50})
    theirs = accountant.get_epsilon(1e-5)
    assert renyi_epsilon([ours], 1e-5) == pytest.approx(theirs, rel=0.02)
    # An engine made again for each round would have counted the last ten steps only.
    assert renyi_epsilon([ours.times(10)], 1e-5) < 0.9 * theirs


def test_the_whole_job_costs_what_it_promises(world: tuple[Trainer, TensorSet, Plan]) -> None:
    _, _, plan = world
    assert plan.steps == 4
    assert 0.95 * plan.epsilon < spent(plan, plan.attempts, 1) <= plan.epsilon
    assert spent(plan, 1, 0) < spent(plan, 2, 0) < spent(plan, 2, 1)
    assert private_training.noised is gaussian_module.noised


@pytest.mark.parametrize("name", ["cnn", "densenet121", "logistic", "resnet18"])
def test_every_network_gives_a_direction_and_an_update(tmp_path: Path, name: str) -> None:
    """Found by a review: where the ghost norm was taken, the sum carried a graph, training failed, and sites sent noise."""
    job = job_of("distributed")
    side = 32 if name == "densenet121" else 16
    task_settings = job.task.changed(model=name, shape=(side, side))
    job = job.model_copy(update={"task": task_settings})
    task = make_task(job.task)
    model = build_model(job.task, 0)
    trainer = Trainer(model, layout_of(model), task, job, Performance(device="cpu"))
    data = local_data(toy_catalogue(tmp_path, images=8), job, task, Memory(2**24)).train
    private = PrivateTrainer(trainer, Plan("distributed", 1.0, 0.0, 1.0, 1, 1, 5.0, 1e-5), os.urandom)
    start = read_parameters(model, trainer.layout)
    direction = private.direction(start, data)
    assert direction.dtype == np.float64
    assert 0.1 < np.linalg.norm(direction) <= data.patients * (1 + 1e-4)
    assert np.isfinite(private.train(start, data)).all()


def test_a_patient_that_cannot_be_read_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of("distributed")
    task = make_task(job.task)
    model = build_model(job.task, 0)
    trainer = Trainer(model, layout_of(model), task, job, Performance(device="cpu"))
    private = PrivateTrainer(trainer, Plan("distributed", 1.0, 20.0, 1.0, 1, 1, 5.0, 1e-5), os.urandom)
    data = local_data(toy_catalogue(tmp_path), job, task, Memory(2**24)).train
    start = read_parameters(model, trainer.layout)
    whole = private.direction(start, data)
    read = TensorSet.batch

    def without_third(self: TensorSet, rows: torch.Tensor, use: Use | None = None) -> Batch:
        if 3 in rows.tolist():
            raise DataError("The file is gone.", remedy="")
        return read(self, rows)

    monkeypatch.setattr(TensorSet, "batch", without_third)
    assert 0 < np.linalg.norm(private.direction(start, data) - whole) <= 1 + 1e-4
    counted = private.statistics(start, data)
    assert round(float(counted.sum())) == data.patients - 1


def test_one_patients_split_does_not_depend_on_anothers(tmp_path: Path) -> None:
    from salus.client.data.catalogue import Catalogue
    from salus.client.data.records import ImageRecord
    from salus.client.data.sources import open_source
    from salus.client.data.sources.settings import SourceOptions

    toy_catalogue(tmp_path)
    job = job_of("local")
    task = make_task(job.task)

    def split_of(records: list[ImageRecord], name: str) -> tuple[int, int]:
        catalogue = Catalogue(tmp_path / name, b"secret for tests")
        catalogue.add_records("toy", "medmnist", tmp_path / "toy.npz", SourceOptions(), records)
        data = local_data(catalogue, job, task, Memory(2**24))
        return data.train.patients, data.validation.patients

    found = [
        r for r in open_source("medmnist", tmp_path / "toy.npz", SourceOptions()).scan() if isinstance(r, ImageRecord)
    ]
    others = [replace(record, split="") for record in found if record.split == "train"][:30]
    alone = next(record for record in found if record.split == "val")
    train, validation = split_of(others, "without")
    assert split_of([*others, alone], "with") == (train, validation + 1)
    assert train + validation == 30
    assert validation
    assert split_of([alone], "nobody to train on") == (0, 1)
