"""Tasks with other labels than one class: several findings, grades in an order, numbers."""

import math

import numpy as np
import pytest
import torch
from tests.builders import job_text
from torch import nn

from salus.common.batch import Batch, example_batch
from salus.common.errors import JobError
from salus.common.estimates import Estimate
from salus.common.job import Job, parse_job
from salus.common.tasks import make_task
from salus.common.tasks.base import Task
from salus.common.tasks.ordinal import ordinal_metrics

KINDS = {
    "multilabel": 'classes = ["edema", "effusion", "mass"]\nclass_weights = [1.0, 2.0, 3.0]',
    "ordinal": 'classes = ["none", "mild", "severe"]\nsoftness = 0.7',
    "regression": 'classes = ["age"]\nlow = 0.0\nhigh = 120.0',
}


def job_of(kind: str, keys: str | None = None) -> Job:
    text = job_text().replace('kind = "classification"', f'kind = "{kind}"')
    return parse_job(text.replace('classes = ["no", "yes"]', KINDS[kind] if keys is None else keys))


def task_of(kind: str, keys: str | None = None) -> Task:
    return make_task(job_of(kind, keys).task)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_rows_are_those_of_each_item_alone(kind: str) -> None:
    task = task_of(kind)
    batch = example_batch(task.spec, 7)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, len(task.settings.classes)))
    outputs = task.infer(model, batch)
    together = task.losses(model, batch, task.steps[0]), task.rows(outputs, batch), task.private_rows(outputs, batch)
    for place in range(7):
        one = batch.rows(slice(place, place + 1))
        output = task.infer(model, one)
        alone = task.losses(model, one, task.steps[0]), task.rows(output, one), task.private_rows(output, one)
        for whole, part in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[place : place + 1], part, rtol=1e-4, atol=1e-5)
    assert together[1].min() >= 0
    assert together[1].max() <= 1
    assert together[2].norm(dim=1).max() <= 1 + 1e-12
    assert together[1].shape == (7, task.statistics_size)
    assert together[2].shape == (7, task.private_statistics_size)


def test_findings_are_present_or_absent_and_unknown_ones_leave_an_image_out() -> None:
    task = task_of("multilabel")
    known = {"edema|mass": [1, 0, 1], "effusion; edema": [1, 1, 0], "No Finding": [0, 0, 0]}
    for label, expected in known.items():
        found = task.target(label)
        assert found is not None
        assert found.tolist() == expected
    assert task.target("edema|hernia") is None
    assert task.target("") is None


def test_the_loss_of_findings_is_the_weighted_cross_entropy() -> None:
    task = task_of("multilabel")
    logits = torch.tensor([[0.3, -1.0, 2.0]])
    batch = Batch({"image": torch.zeros(1, 1), "label": torch.tensor([[1, 0, 1]])})
    p = torch.sigmoid(logits[0])
    expected = -(p[0].log() + (1 - p[1]).log() + 3 * p[2].log()) / 3
    assert math.isclose(task.losses(nn.Identity(), _flat(logits, batch), task.steps[0]).item(), expected, rel_tol=1e-6)


def _flat(logits: torch.Tensor, batch: Batch) -> Batch:
    return Batch({"image": logits, "label": batch["label"]})


def test_perfect_findings_have_area_one_exact_and_noised() -> None:
    task = task_of("multilabel")
    labels = torch.randint(0, 2, (400, 3), generator=torch.Generator().manual_seed(0))
    batch = Batch({"image": (labels * 2.0 - 1) * 5, "label": labels})
    outputs = task.infer(nn.Identity(), batch)
    exact = task.metrics(task.rows(outputs, batch).sum(0).numpy())
    assert (exact["auc"], exact["auc_mass"], exact["accuracy"], exact["recall_edema"]) == (1.0, 1.0, 1.0, 1.0)
    noised = task.private_metrics(task.private_rows(outputs, batch).sum(0).numpy(), 0.5)
    accuracy = noised["accuracy"]
    assert isinstance(accuracy, Estimate)
    assert accuracy.value is not None
    assert abs(accuracy.value - 1) < 0.02
    wrong = task.private_metrics(task.private_rows(-outputs, batch).sum(0).numpy(), 0.5)["accuracy"]
    assert isinstance(wrong, Estimate)
    assert wrong.value is not None
    assert wrong.value < 0.02


def test_a_grades_loss_prefers_neighbours() -> None:
    task = task_of("ordinal")
    near, far = torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[3.0, 0.0, 0.0]])
    label = torch.tensor([1])
    mild = [float(task.losses(nn.Identity(), Batch({"image": o, "label": label}), task.steps[0])) for o in (near, far)]
    severe = [
        float(task.losses(nn.Identity(), Batch({"image": o, "label": label + 1}), task.steps[0]))
        for o in (torch.tensor([[0.0, 3.0, 0.0]]), far)
    ]
    assert mild[0] == pytest.approx(mild[1])
    assert severe[0] < severe[1]


def test_kappa_is_cohens_quadratic_weighted() -> None:
    """Against the definition over all pairs of items."""
    generator = np.random.default_rng(0)
    true, found = generator.integers(0, 4, 300), generator.integers(0, 4, 300)
    confusion = np.zeros((4, 4))
    np.add.at(confusion, (true, found), 1)
    observed = ((true - found) ** 2).mean()
    expected = ((true[:, None] - found[None]) ** 2).mean()
    result = ordinal_metrics(confusion)
    assert result["kappa"] == pytest.approx(1 - observed / expected)
    assert result["mean_grade_error"] == pytest.approx(np.abs(true - found).mean())


def test_regression_metrics_are_those_of_the_numbers() -> None:
    task = task_of("regression")
    generator = torch.Generator().manual_seed(1)
    true = torch.rand(200, generator=generator)
    found = (true + 0.1 * torch.randn(200, generator=generator)).clamp(0, 1)
    rows = task.rows(found, Batch({"image": found, "label": true})).sum(0).numpy()
    metrics = task.metrics(rows)
    assert metrics["mae"] == pytest.approx(float((found - true).abs().mean()) * 120)
    assert metrics["rmse"] == pytest.approx(float(((found - true) ** 2).mean().sqrt()) * 120, rel=1e-6)
    assert metrics["r2"] == pytest.approx(1 - float(((found - true) ** 2).mean() / true.var(correction=0)), abs=1e-5)
    batch = Batch({"image": found, "label": true})
    noised = task.private_metrics(task.private_rows(found, batch).sum(0).numpy(), 1.0)["mae_of_range"]
    assert isinstance(noised, Estimate)
    assert noised.value == pytest.approx(metrics["mae"] / 120)


def test_numbers_are_shares_of_the_range() -> None:
    task = task_of("regression")
    found = {label: task.target(label) for label in ("0", "60", "130.5", "nan", "old")}
    assert [None if value is None else float(value) for value in found.values()] == [0.0, 0.5, 1.0, None, None]


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        ("multilabel", "classes = []", "at least one class"),
        ("multilabel", 'classes = ["a"]\nclass_weights = [1.0, 2.0]', "class_weights"),
        ("ordinal", 'classes = ["a"]', "at least two"),
        ("ordinal", 'classes = ["a", "b"]\nclass_weights = [1.0]', "class_weights"),
        ("regression", 'classes = ["a", "b"]', "one name"),
        ("regression", 'classes = ["a"]\nlow = 2.0\nhigh = 1.0', "low below high"),
        ("regression", 'classes = ["a"]\nsmoothnes = 0.5', "smoothness"),
    ],
)
def test_settings_that_do_not_fit_are_refused(kind: str, keys: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        job_of(kind, keys)
