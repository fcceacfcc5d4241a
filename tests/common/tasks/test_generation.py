"""Generation of images of a class: four kinds of models with common scores."""

import math
from typing import Any

import pytest
import torch
from tests.common.tasks.test_rows import KINDS, world

from salus.common.batch import Batch, example_batch
from salus.common.errors import JobError
from salus.common.job import parse_job
from salus.common.metrics.generated import MOMENTS
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.tasks.generation import SCORES, Generation, _Latest
from salus.common.tasks.generation_rnn import rows_of
from salus.common.tasks.steps import stepping

GENERATING = ("diffusion", "gan", "generation-rnn", "vae")
JOB = """
[job]
name = "j"
rounds = 1
[task]
kind = "{kind}"
model = "{model}"
dataset = "d"
{more}
"""


def network(kind: str, more: str = "") -> tuple[Any, Any]:
    model, usual = KINDS[kind]
    settings = parse_job(JOB.format(kind=kind, model=model, more=more or usual)).task
    return build_model(settings, 0).eval(), make_task(settings)


@pytest.mark.parametrize("kind", GENERATING)
def test_images_follow_from_the_model_the_labels_and_the_seed(kind: str) -> None:
    model, task = network(kind)
    labels = torch.tensor([0, 1, 1])
    one, two = task.generated(model, labels, 1), task.generated(model, labels, 1)
    assert one.shape == (3, 1, 8, 8)
    assert torch.equal(one, two)
    assert not torch.equal(one, task.generated(model, labels, 2))
    assert not torch.allclose(one, task.generated(model, 1 - labels, 1), atol=1e-6) or kind == "diffusion"
    assert bool(torch.isfinite(one).all())


@pytest.mark.parametrize("kind", GENERATING)
def test_a_loss_draws_nothing_and_is_of_one_item(kind: str) -> None:
    model, task = network(kind)
    batch = example_batch(task.spec, 4)
    losses = task.losses(model, batch, task.steps[0])
    assert torch.equal(losses, task.losses(model, batch, task.steps[0]))
    alone = torch.cat([task.losses(model, batch.rows(slice(n, n + 1)), task.steps[0]) for n in range(4)])
    assert torch.allclose(losses, alone, rtol=1e-4)


def test_a_step_of_the_generator_reads_no_data_and_changes_the_generator_only() -> None:
    model, task = network("gan")
    discriminator, generator = task.steps
    assert (discriminator.data, generator.data) == (True, False)
    batch = example_batch(task.spec, 4)
    noise = Batch({name: batch[name] for name, field in task.spec.items() if field.noise})
    with stepping(model, generator):
        task.losses(model, noise, generator).mean().backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"generator"}


def test_the_likelihood_of_rows_is_that_of_the_rows_before_alone() -> None:
    model, task = network("generation-rnn")
    batch = example_batch(task.spec, 1)
    rows, classes = rows_of(batch["image"]), torch.eye(2)[batch["label"]]
    at_once = model(rows, classes)
    state, found = None, []
    for row in rows.split(1, dim=1):
        outputs, state = model.advance(row, classes, state)
        found.append(outputs)
    assert torch.allclose(at_once, torch.cat(found, dim=1), atol=1e-5)
    changed = rows.clone()
    changed[:, 5:] += 1
    assert torch.equal(model(changed, classes)[:, :5], at_once[:, :5])


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_diffusion_starts_from_the_image_and_ends_in_noise(schedule: str) -> None:
    _model, usual = KINDS["diffusion"]
    _, task = network("diffusion", usual + f'\nschedule = "{schedule}"')
    image, noise = task._mixed(torch.linspace(0, 1, 20))
    assert torch.allclose(image**2 + noise**2, torch.ones(20), atol=1e-5)
    assert bool((image.diff() < 0).all())
    assert float(image[0]) == pytest.approx(1, abs=1e-6)
    assert float(image[-1]) < 0.02


class Exact:
    """Says what the velocity would be if every image were one known image."""

    def __init__(self, task: Any, image: torch.Tensor) -> None:
        self.task, self.image = task, image

    def __call__(self, x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        image, noise = (share.reshape(-1, 1, 1, 1) for share in self.task._mixed(time))
        return image * (x - image * self.image) / noise.clamp(min=1e-6) - noise * self.image


def test_ddim_finds_the_image_that_a_perfect_network_knows() -> None:
    _, task = network("diffusion", KINDS["diffusion"][1].replace("sampling_steps = 1", "sampling_steps = 5"))
    image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = task.made(Exact(task, image), torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    assert torch.allclose(made, image.expand(2, -1, -1, -1), atol=1e-3)


def test_a_model_that_makes_the_real_images_has_a_distance_of_nearly_zero() -> None:
    model, task = network("vae")
    batch = example_batch(task.spec, 60)
    rows = task.rows(task.infer(model, batch), batch)
    distance = task.metrics(rows.sum(dim=0).numpy())["frechet_distance"]
    own = slice(1 + task._real.statistics_size, None)
    same = rows.clone()
    same[:, own] = torch.cat([same[:, own][:, :MOMENTS]] * 2, dim=1)
    assert task.metrics(same.sum(dim=0).numpy())["frechet_distance"] < 1e-3 < distance


def test_images_are_made_once_for_a_model_and_a_few_models_are_kept() -> None:
    kept, calls = _Latest(), []
    for key in (b"a", b"a", b"b", b"c", b"a"):
        kept.of(key, lambda key=key: calls.append(key))
    assert calls == [b"a", b"b", b"c", b"a"]
    model, task = network("vae")
    one = task._scored(model)
    assert task._scored(model) is one
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    assert task._scored(model) is not one
    assert SCORES.of  # shared by all tasks of the process


def test_a_diverged_model_has_bad_scores_instead_of_none() -> None:
    model, task = network("vae")
    with torch.no_grad():
        next(model.decoder.parameters()).fill_(math.nan)
    batch = example_batch(task.spec, 4)
    rows = task.rows(task.infer(model, batch), batch)
    assert bool(((rows >= 0) & (rows <= 1)).all())
    assert all(math.isfinite(value) for value in task.metrics(rows.sum(dim=0).numpy()).values())


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("generation-rnn", 'shape = [8, 8, 8]\nclasses = ["a", "b"]', "2 sides"),
        ("vae", 'shape = [8]\nclasses = ["a", "b"]', "2 or 3 sides"),
        ("vae", 'shape = [256, 256, 64]\nclasses = ["a", "b"]\nlatent_size = 1024\nscore_images = 16', "weights"),
        ("vae", 'shape = [512, 512, 64]\nclasses = ["a", "b"]\nscore_images = 256', "score_images"),
        ("diffusion", 'shape = [512, 512]\nclasses = ["a", "b"]', "cannot be built"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_allocated(kind: str, more: str, said: str) -> None:
    with pytest.raises(JobError, match=said):
        network(kind, more)


@pytest.mark.parametrize("kind", GENERATING)
def test_a_network_of_another_kind_is_refused(kind: str) -> None:
    model, _ = KINDS[kind]
    settings = parse_job(
        JOB.format(kind="classification", model=model, more='shape = [8, 8]\nclasses = ["a", "b"]')
    ).task
    with pytest.raises(JobError, match=kind):
        build_model(settings, 0)


def test_one_class_is_refused() -> None:
    with pytest.raises(JobError, match="two different classes"):
        network("vae", 'shape = [8, 8]\nclasses = ["a"]')


def test_private_metrics_are_those_of_the_classifier() -> None:
    task, _outputs = world("vae")
    assert isinstance(task, Generation)
    assert set(task.foretold(400, 1.0)) == {
        "auc_generated",
        "accuracy_generated",
        "recall_a_generated",
        "recall_b_generated",
    }
