"""Rows of whatever a model may put out: each entry from 0 to 1, row i from item i alone, private rows of norm at most one."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salus.common.batch import example_batch
from salus.common.canonical import canonical_json
from salus.common.estimates import to_plain
from salus.common.job import parse_job
from salus.common.models import build_model
from salus.common.tasks import TASKS, make_task
from salus.common.tasks.base import Task

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
ITEMS = 6
KINDS = {
    "classification": ("cnn", 'shape = [8, 8]\nclasses = ["a", "b", "c"]'),
    "detection": (
        "retinanet",
        'shape = [16, 16]\nclasses = ["a", "b"]\nmost_objects = 3\nwidths = [4, 4, 4, 4]\nneck_width = 8\nratios = [1.0]',
    ),
    "diffusion": (
        "diffusion-unet",
        'shape = [8, 8]\nclasses = ["a", "b"]\nwidths = [8, 8]\nsampling_steps = 1\nscore_images = 16',
    ),
    "explained-classification": ("cnn", 'shape = [8, 8]\nclasses = ["a", "b", "c"]\nexplained_steps = 2'),
    "fusion": ("fusion-early", 'shape = [8, 8]\nclasses = ["a", "b", "c"]\nmodalities = ["image"]'),
    "gan": ("gan", 'shape = [8, 8]\nclasses = ["a", "b", "c"]\nscore_images = 16'),
    "generation-rnn": ("row-rnn", 'shape = [8, 8]\nclasses = ["a", "b"]\nscore_images = 16'),
    "instances": ("centres", 'shape = [8, 8]\nclasses = ["a"]\nmost_objects = 3'),
    "multilabel": ("cnn", 'shape = [8, 8]\nclasses = ["a", "b", "c"]'),
    "ordinal": ("cnn", 'shape = [8, 8]\nclasses = ["a", "b", "c"]'),
    "regression": ("cnn", 'shape = [8, 8]\nclasses = ["age"]'),
    "segmentation": ("unet", 'shape = [8, 8]\nclasses = ["a", "b"]'),
    "multi-instance": ("bag", 'shape = [8, 8]\nclasses = ["a", "b"]\nitem = "patient"\nmost_images = 3'),
    "multi-instance-findings": ("bag", 'shape = [8, 8]\nclasses = ["a", "b"]\nitem = "patient"\nmost_images = 3'),
    "sequence": ("gru", 'shape = [8, 8]\nclasses = ["a", "b"]\nitem = "patient"\nmost_images = 3'),
    "survival": ("cnn", "shape = [8, 8]\ntimes = [1.0, 2.0, 4.0]"),
    "svm": ("logistic", 'columns = [{name = "x"}, {name = "y"}]\nclasses = ["a", "b"]'),
    "tracking": ("centres", 'shape = [3, 8, 8]\nclasses = ["a"]\nmost_objects = 3'),
    "vae": ("vae", 'shape = [8, 8]\nclasses = ["a", "b"]\nscore_images = 16'),
    "tabular": ("logistic", 'columns = [{name = "x"}, {name = "y"}]\nclasses = ["a", "b"]'),
}
NUMBERS = st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e20, 1e-40, 0.0, -0.0, 5.0, -7.0])


def test_every_task_is_tried() -> None:
    assert set(TASKS.names()) >= set(KINDS)
    assert set(TASKS._builtin) == set(KINDS)


def world(kind: str) -> tuple[Task, torch.Tensor]:
    model, more = KINDS[kind]
    task_settings = parse_job(JOB.format(kind=kind, model=model, more=more)).task
    task = make_task(task_settings)
    return task, task.infer(build_model(task_settings, 0).eval(), example_batch(task.spec, ITEMS)).detach()


WORLDS = {kind: world(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_rows_keep_their_bounds_whatever_a_model_puts_out(kind: str, data: st.DataObject) -> None:
    task, usual = WORLDS[kind]
    batch = example_batch(task.spec, ITEMS)
    tried = torch.tensor(data.draw(st.lists(NUMBERS, min_size=8, max_size=8)))
    places = torch.randint(0, 8, usual.shape, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 999))))
    outputs = tried[places]
    rows, private = task.rows(outputs, batch), task.private_rows(outputs, batch)
    assert rows.shape == (ITEMS, task.statistics_size)
    assert bool(((rows >= 0) & (rows <= 1)).all())
    assert float(private.norm(dim=1).max()) <= 1 + 1e-9
    for item in range(ITEMS):
        alone = slice(item, item + 1)
        assert torch.equal(task.rows(outputs[alone], batch.rows(alone))[0], rows[item])
        assert torch.equal(task.private_rows(outputs[alone], batch.rows(alone))[0], private[item])
    assert all(math.isfinite(value) for value in task.metrics(rows.sum(dim=0).numpy()).values())


SUMS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.4, 5.0, -7.0, 1e-30, 1e9, -1e9])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_one_site_cannot_end_a_job_by_sums_that_no_rows_have(kind: str, data: st.DataObject) -> None:
    """Only sums are seen, so nobody can tell which site added a negative squared error; the metrics of the round are odd then."""
    task, _ = WORLDS[kind]
    tried = np.array(data.draw(st.lists(SUMS, min_size=8, max_size=8)))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    totals = tried[rng.integers(0, 8, task.statistics_size)]
    totals[0] = abs(totals[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert canonical_json(to_plain(task.metrics(totals)))
        assert canonical_json(task.figures(totals).model_dump(mode="json"))
        noised = tried[rng.integers(0, 8, task.private_statistics_size)]
        for noise_sd in (1e-9, 1.0, 100.0):
            assert canonical_json(to_plain(task.private_metrics(noised, noise_sd)))
            assert canonical_json(task.private_figures(noised, noise_sd).model_dump(mode="json"))


def test_f1_is_a_number_where_a_site_says_that_less_than_nothing_was_found() -> None:
    from salus.common.tasks.classification import of_classes

    counted = of_classes(("a", "b"), np.array([0.0, 2.0]), np.array([3.0, 4.0]), np.array([-3.0, 2.0]))
    assert counted["f1_a"] == 0
    assert counted["f1_b"] == pytest.approx(2 * 2 / (4 + 2))
