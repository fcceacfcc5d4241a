"""Whom a private step reads, seen from outside: at the plan's rate, drawn anew for each step, and how batches are made."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tests.builders import tiny_job

from salus.client import private_training
from salus.client.performance import Performance
from salus.client.private_training import PrivateTrainer, batch_rows
from salus.client.training import Trainer
from salus.common.batch import Batch
from salus.common.errors import WireError
from salus.common.job import Job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.vectors import layout_of, read_parameters
from salus.privacy.dp import optimizer as optimizer_module
from salus.privacy.dp.plan import Plan
from salus.privacy.dp.sampling import poisson_sample
from salus.privacy.randomness import Stream

ALPHA = 1e-6
RATE, STEPS, PATIENTS = 0.2, 6, 1500


class Recorded:
    """A data set that remembers which patients were read, in order; image i belongs to patient ``of_image[i]``."""

    random, copies = False, 1

    def __init__(self, of_image: list[int], side: int = 8) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.rand(len(of_image), 1, side, side, generator=generator) * 2 - 1
        self.targets = torch.randint(0, 2, (len(of_image),), generator=generator)
        self.of_image = of_image
        self.hidden: set[int] = set()
        self.read: list[int] = []

    def by_patient(self) -> list[list[int]]:
        groups: dict[int, list[int]] = {}
        for image, patient in enumerate(self.of_image):
            if patient not in self.hidden:
                groups.setdefault(patient, []).append(image)
        return [groups[patient] for patient in sorted(groups)]

    def parts(self, rows: torch.Tensor, most: int) -> tuple[torch.Tensor, ...]:
        return torch.split(rows, most)

    def places(self, images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), 0, dtype=torch.long)  # the job names no subgroups

    def batch(self, rows: torch.Tensor, use: object = None) -> Batch:
        self.read += sorted({self.of_image[row] for row in rows.tolist()})
        return Batch({"image": self.inputs[rows], "label": self.targets[rows]})


def job_of(model: str = "logistic", batch_size: int = 32, shape: tuple[int, int] = (8, 8)) -> Job:
    privacy = f'noise = "distributed"\nepsilon = 5.0\nsampling_rate = {RATE}\npatients_per_site = 300\n'
    job = tiny_job(protection="masking", privacy=privacy, model=model)
    return job.model_copy(
        update={
            "task": job.task.model_copy(update={"shape": shape}),
            "training": job.training.model_copy(update={"batch_size": batch_size}),
        }
    )


def trainer_of(job: Job) -> Trainer:
    task = make_task(job.task)
    model = build_model(job.task, 0)
    return Trainer(model, layout_of(model), task, job, Performance(device="cpu"))


def private_of(job: Job, mode: Any = "distributed", rate: float = RATE, steps: int = 1) -> PrivateTrainer:
    plan = Plan(mode, 1.0, 0.0, rate, steps, 1, 5.0, 1e-5)
    return PrivateTrainer(trainer_of(job), plan, np.random.default_rng(7).bytes)


def reads_of(run: Callable[[PrivateTrainer, np.ndarray, Recorded], object], mode: str, steps: int) -> Counter[int]:
    """Return how often each patient was read in one call."""
    private = private_of(job_of(), mode, steps=steps)
    data = Recorded(list(range(PATIENTS)))
    run(private, read_parameters(private._trainer.model, private._trainer.layout), data)
    return Counter(data.read)


def by_direction(private: PrivateTrainer, start: Any, data: Any) -> object:
    return private.direction(start, data)


def by_training(private: PrivateTrainer, start: Any, data: Any) -> object:
    return private.train(start, data)


WAYS = {"direction": (by_direction, "distributed", 1), "train": (by_training, "local", STEPS)}


def rate_is_the_plans(way: str) -> bool:
    run, mode, steps = WAYS[way]
    reads = reads_of(run, mode, steps)
    return bool(stats.binomtest(sum(reads.values()), PATIENTS * steps, RATE).pvalue > ALPHA)


@pytest.mark.parametrize("way", WAYS)
def test_patients_are_read_at_the_plans_rate(way: str) -> None:
    assert rate_is_the_plans(way)


@pytest.mark.parametrize("way", WAYS)
def test_sampling_at_twice_the_rate_is_caught(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_training, "poisson_sample", lambda n, q, stream: poisson_sample(n, 2 * q, stream))
    assert not rate_is_the_plans(way)


def each_step_has_its_own_sample() -> bool:
    """The number of steps in which a patient is read is binomial; with one sample for all steps it is none or all."""
    reads = reads_of(by_training, "local", STEPS)
    observed = np.bincount([reads[patient] for patient in range(PATIENTS)], minlength=STEPS + 1)
    law = stats.binom.pmf(np.arange(STEPS + 1), STEPS, RATE) * PATIENTS
    observed, law = np.append(observed[:4], observed[4:].sum()), np.append(law[:4], law[4:].sum())
    return bool(stats.chisquare(observed, law).pvalue > ALPHA)


def test_every_step_of_a_round_has_a_sample_of_its_own() -> None:
    assert each_step_has_its_own_sample()


def test_one_sample_for_all_steps_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[np.ndarray] = []

    def once(patients: int, rate: float, stream: Stream) -> np.ndarray:
        kept.append(poisson_sample(patients, rate, stream))
        return kept[0]

    monkeypatch.setattr(private_training, "poisson_sample", once)
    assert not each_step_has_its_own_sample()


def noise_beyond_the_first_words() -> float:
    """Return the standard deviation of an update without patients from parameter 65 536 on, over the plan's."""
    private = private_of(job_of(shape=(256, 256)), "local")
    start = read_parameters(private._trainer.model, private._trainer.layout)
    update = private.train(start, None)
    assert len(update) > 2 * 65_536
    return float(update[65_536:].std() * RATE * 300)


def test_every_parameter_has_noise_and_noise_on_the_first_words_only_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert noise_beyond_the_first_words() == pytest.approx(1.0, rel=0.02)
    right = optimizer_module.noised

    def first_words(values: torch.Tensor, sigma: float, stream: Stream) -> torch.Tensor:
        found = right(values, sigma, stream).flatten()
        found[65_536:] = values.flatten()[65_536:]
        return found.reshape(values.shape)

    monkeypatch.setattr(optimizer_module, "noised", first_words)
    assert noise_beyond_the_first_words() < 0.9


def change_by(patient: int, data: Recorded, private: PrivateTrainer, start: Any) -> float:
    """Return how far one patient moves the sum of everybody's clipped gradients."""
    whole = private.direction(start, data)  # type: ignore[arg-type]
    data.hidden = {patient}
    without = private.direction(start, data)  # type: ignore[arg-type]
    data.hidden = set()
    return float(np.linalg.norm(whole - without))


@pytest.mark.parametrize("model", ["cnn", "logistic"])
@pytest.mark.parametrize("scale", [1.0, 1e10, 1e20])
def test_one_patient_moves_a_sum_by_the_clip_norm_whatever_the_parameters(model: str, scale: float) -> None:
    """Found by an attack, see `test_rows`: the sum of 199 others depended on one patient with two images."""
    private = private_of(job_of(model, shape=(16, 16)), rate=1.0)
    data = Recorded([0, *range(40), 7, 7, 9], side=16)
    network = private._trainer.model
    for layer in network.modules():
        if isinstance(layer, torch.nn.GroupNorm):
            torch.nn.init.constant_(layer.weight, scale)
    if model == "logistic":
        data.inputs *= scale
    start = read_parameters(network, private._trainer.layout)
    for patient in (0, 7, 20):
        assert change_by(patient, data, private, start) <= 1 + 2.0**-12


def test_a_patients_part_has_the_same_bits_whoever_else_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each patient is clipped to is recorded, over samples of every size and batches in every order."""
    private = private_of(job_of("cnn", shape=(16, 16)), rate=0.5)
    data = Recorded([*range(30), 3, 4, 4, 5, 5, 5], side=16)
    start = read_parameters(private._trainer.model, private._trainer.layout)
    norms: dict[int, set[float]] = {}
    right = private._clipper.clipped_sum

    def recorded(batch: Batch, patients: Any, clip: float) -> Any:
        found = right(batch, patients, clip)
        for row in patients.present.nonzero().flatten().tolist():
            first = batch["image"][row * patients.places]
            image = next(i for i, x in enumerate(data.inputs) if torch.equal(x, first))
            norms.setdefault(data.of_image[image], set()).add(float(found.norms_l2[row]))
        return found

    monkeypatch.setattr(private._clipper, "clipped_sum", recorded)
    for hidden in range(12):
        data.hidden = {hidden, hidden + 9}
        private.direction(start, data)  # type: ignore[arg-type]
    assert len(norms) == 30
    assert {len(found) for found in norms.values()} == {1}


def test_where_rows_depend_on_each_other_patients_are_computed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_training, "_INDEPENDENT", {})
    monkeypatch.setattr(private_training, "independent_rows", lambda *_: False)
    private = private_of(job_of(), rate=1.0)
    data = Recorded([0, 0, 1, 2])
    sizes: list[tuple[int, int]] = []
    right = private._clipper.clipped_sum

    def recorded(batch: Batch, patients: Any, clip: float) -> Any:
        sizes.append((patients.count, patients.places))
        return right(batch, patients, clip)

    monkeypatch.setattr(private._clipper, "clipped_sum", recorded)
    private.direction(read_parameters(private._trainer.model, private._trainer.layout), data)  # type: ignore[arg-type]
    assert sorted(sizes) == [(1, 1), (1, 1), (1, 2)]


def test_where_the_rows_of_a_small_batch_depend_on_each_other_a_larger_one_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At most the job's batch, because a larger one may not fit into memory."""
    tried: list[int] = []

    def from_16_on(clipper: Any, model: Any, task: Any, rows: int, places: int, device: Any) -> bool:
        tried.append(rows)
        return rows >= 16

    monkeypatch.setattr(private_training, "_INDEPENDENT", {})
    monkeypatch.setattr(private_training, "independent_rows", from_16_on)
    few = job_of().privacy.model_copy(update={"sampling_rate": 0.05})  # 15 expected patients
    private = private_of(job_of().model_copy(update={"privacy": few}))
    assert (private.rows_for(1), tried) == (16, [4, 8, 16])
    private = private_of(job_of(batch_size=15).model_copy(update={"privacy": few}))
    assert private.rows_for(1) == 1


def test_a_task_whose_inputs_differ_for_a_single_image_gets_passes_of_one_patient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The inputs are the item's own, but not to the last bit, as with other instructions for other sizes."""
    private = private_of(job_of(), rate=1.0)
    start = read_parameters(private._trainer.model, private._trainer.layout)
    data = Recorded([0, 1, 2, 3])
    expected = private.direction(start, data)  # type: ignore[arg-type]
    task = private._trainer.task
    infer = task.infer

    def uneven(model: Any, batch: Batch) -> torch.Tensor:
        factor = 1 + 2.0**-20 * (len(batch) > 1)
        result: torch.Tensor = infer(model, Batch({**batch.fields, "image": batch["image"] * factor}))
        return result

    monkeypatch.setattr(task, "infer", uneven)
    private._rows.clear()
    monkeypatch.setattr(private_training, "_INDEPENDENT", {})
    assert np.allclose(private.direction(start, data), expected, atol=1e-6)  # type: ignore[arg-type]
    assert private._rows == {1: 1}
    assert not private.left_out


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, OSError])
def test_a_patient_whose_reading_or_training_fails_adds_nothing_and_is_counted(kind: type[Exception]) -> None:
    private = private_of(job_of(), rate=1.0)
    start = read_parameters(private._trainer.model, private._trainer.layout)

    class Broken(Recorded):
        def batch(self, rows: torch.Tensor, use: object = None) -> Batch:
            if 3 in [self.of_image[row] for row in rows.tolist()]:
                raise kind("patient 3")
            return super().batch(rows)

    people = list(range(8))
    data, without = Broken(people), Recorded(people)
    without.hidden = {3}
    expected = private.direction(start, without)  # type: ignore[arg-type]
    assert not private.left_out
    assert np.allclose(private.direction(start, data), expected, rtol=0, atol=1e-12)  # type: ignore[arg-type]
    assert private.left_out == {kind.__name__: 1}
    private.statistics(start, data)  # type: ignore[arg-type]
    assert private.left_out == {kind.__name__: 1}
    right = private._clipper.clipped_sum

    def fails(batch: Batch, patients: Any, clip: float) -> Any:
        if any(torch.equal(x, data.inputs[3]) for x in batch["image"]):  # present or not: the network sees it
            raise kind("patient 3")
        return right(batch, patients, clip)

    private._clipper.clipped_sum = fails  # type: ignore[method-assign]
    assert np.allclose(private.direction(start, Recorded(people)), expected, rtol=0, atol=1e-12)  # type: ignore[arg-type]
    assert private.left_out == {kind.__name__: 1}


def test_the_size_of_a_batch_depends_on_public_numbers_only() -> None:
    cpu = torch.device("cpu")
    assert batch_rows(job_of(), cpu) == 16
    assert batch_rows(job_of(batch_size=3), cpu) == 3
    few = job_of().privacy.model_copy(update={"patients_per_site": 1})
    assert batch_rows(job_of().model_copy(update={"privacy": few}), cpu) == 1


@pytest.mark.parametrize("value", [1e7, -1e20, float("inf"), float("nan")])
def test_parameters_that_no_trained_network_has_are_refused(value: float) -> None:
    private = private_of(job_of())
    parameters = read_parameters(private._trainer.model, private._trainer.layout)
    private.check(parameters)
    parameters[5] = value
    with pytest.raises(WireError, match=r"between -1e\+06 and 1e\+06"):
        private.check(parameters)
