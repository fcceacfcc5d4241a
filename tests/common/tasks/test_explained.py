"""The task explained-classification: trained as classification, with the means of its numbers under noise as well."""

import math

import numpy as np
import pytest
import torch

from salus.common.batch import example_batch
from salus.common.faithfulness import MEASURES
from salus.common.job import TaskSettings, parse_job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.tasks.explained import ExplainedClassification

JOB = """
[job]
name = "x"
rounds = 1
[task]
kind = "{kind}"
model = "cnn"
dataset = "d"
classes = ["a", "b"]
shape = [8, 8]
{more}
[privacy]
noise = "none"
"""


def settings(kind: str = "explained-classification", more: str = "explained_steps = 2") -> TaskSettings:
    return parse_job(JOB.format(kind=kind, more=more)).task


def test_it_trains_as_classification_does() -> None:
    own, plain = make_task(settings()), make_task(settings("classification", ""))
    model, batch = build_model(plain.settings, 0), example_batch(plain.spec, 6)
    step = plain.steps[0]
    assert torch.equal(own.losses(model, batch, step), plain.losses(model, batch, step))


def test_metrics_are_the_means_and_those_of_classification() -> None:
    own, plain = make_task(settings()), make_task(settings("classification", ""))
    model, batch = build_model(own.settings, 0).eval(), example_batch(own.spec, 6)
    outputs = own.infer(model, batch)
    totals = own.rows(outputs, batch).sum(dim=0).numpy()
    metrics = own.metrics(totals)
    exact = plain.metrics(plain.rows(plain.infer(model, batch), batch).sum(dim=0).numpy())
    assert {name: metrics[name] for name in exact} == pytest.approx(exact)
    assert [metrics[name] for name in MEASURES] == pytest.approx(outputs[:, -3:].mean(dim=0).tolist(), abs=1e-6)
    assert own.metrics(np.zeros(own.statistics_size)) == {}
    assert set(own.figures(totals).classes) == {"a", "b"}


def test_private_metrics_are_unbiased_and_their_error_covers_the_noise() -> None:
    task = ExplainedClassification(settings())
    rng = np.random.default_rng(0)
    numbers = torch.tensor(rng.random((400, 3)))
    logits = torch.tensor(rng.normal(size=(400, 2)))
    batch = example_batch(task.spec, 400)
    rows = task.private_rows(torch.cat([logits, numbers], dim=1), batch)
    assert float(rows.norm(dim=1).max()) <= 1 + 1e-12
    sd, found = 2.0, []
    for _ in range(60):
        noisy = rows.sum(dim=0).numpy() + rng.normal(0, sd, rows.shape[1])
        found.append(task.private_metrics(noisy, sd)["insertion"])
    values = np.array([one.value for one in found])
    exact = float(numbers[:, 1].mean())
    error = values.std()
    assert abs(values.mean() - exact) < 4 * error / math.sqrt(60) + 0.01
    told = float(np.mean([one.noise_error for one in found]))
    assert 0.7 < told / error < 1.4
    assert set(MEASURES) <= set(task.foretold(400, sd))


def test_what_a_model_says_leaves_the_numbers_out() -> None:
    task = ExplainedClassification(settings())
    assert task.said(torch.tensor([0.0, 2.0, 9.0, 9.0, 9.0])).label == "b"
