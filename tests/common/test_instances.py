"""Objects as centres: the maps, what becomes of them, average precision, and the rows of both tasks."""

import numpy as np
import pytest
import torch

from salus.common.batch import Batch
from salus.common.job import parse_job
from salus.common.metrics.average_precision import AveragePrecision, matched
from salus.common.tasks import make_task
from salus.common.tasks.centres import grouped, map_losses, overlaps, wanted_maps
from salus.common.tasks.instances import Instances
from salus.simulations.phantom_cells import draw_clip

JOB = """
[job]
name = "cells"
rounds = 1
[task]
kind = "{kind}"
model = "centres"
dataset = "d"
classes = ["cell"]
shape = {shape}
most_objects = 6
"""


def task_of(kind: str, shape: list[int]) -> Instances:
    task = make_task(parse_job(JOB.format(kind=kind, shape=shape)).task)
    assert isinstance(task, Instances)
    return task


def touching() -> torch.Tensor:
    numbers = torch.zeros(1, 24, 24, dtype=torch.int64)
    numbers[0, 4:14, 3:11], numbers[0, 6:16, 11:20] = 1, 2
    return numbers


def said(numbers: torch.Tensor) -> torch.Tensor:
    """Return the outputs of a network that is right."""
    maps = wanted_maps(numbers, 6, torch.zeros(()))
    return torch.cat([torch.logit(maps[:, :2].clamp(0.01, 0.99)), maps[:, 2:]], dim=1)


def test_touching_objects_are_told_apart() -> None:
    numbers = touching()
    found, scores = grouped(said(numbers)[0], 6, 0.3)
    assert len(scores) == 2
    best = overlaps(found, numbers[0], (2, 2)).max(dim=0).values
    assert best == pytest.approx(1.0)


def test_one_object_too_many_is_left_out() -> None:
    assert len(grouped(said(touching())[0], 1, 0.3)[1]) == 1


def test_the_loss_of_a_picture_depends_on_that_picture_only() -> None:
    numbers = torch.cat([touching(), torch.zeros_like(touching()), touching().flip(1)])
    outputs = torch.randn(3, 4, 24, 24, generator=torch.Generator().manual_seed(0))
    together = map_losses(outputs, wanted_maps(numbers, 6, outputs))
    alone = [map_losses(outputs[i : i + 1], wanted_maps(numbers[i : i + 1], 6, outputs)) for i in range(3)]
    assert together == pytest.approx(torch.cat(alone))
    assert float(map_losses(said(numbers), wanted_maps(numbers, 6, outputs)).max()) < float(together.min())


def test_average_precision_is_that_by_hand_and_adds_up() -> None:
    ruler = AveragePrecision(10)
    one = ruler.row(torch.tensor([0.9, 0.7]), torch.tensor([True, False]), 2)
    other = ruler.row(torch.tensor([0.5]), torch.tensor([True]), 1)
    # By score: right (1/1 at recall 1/3), wrong, right (2/3 at recall 2/3).
    assert ruler.value((one + other).numpy()) == pytest.approx(1 / 3 + 2 / 3 / 3)
    assert float(one.max()) <= 1
    assert ruler.value(np.zeros(ruler.size)) is None


def test_an_object_is_matched_once_and_by_the_best_score() -> None:
    right = matched(torch.tensor([[0.8], [0.9]], dtype=torch.float64), torch.tensor([0.4, 0.6]), 0.5)
    assert right.tolist() == [False, True]


def test_rows_of_a_model_that_is_right() -> None:
    task = task_of("instances", [24, 24])
    batch = Batch({"image": torch.zeros(1, 1, 24, 24), "instances": touching()[:, None]})
    rows = task.rows(said(touching())[:, None], batch)
    assert rows.min() >= 0
    assert rows.max() <= 1
    assert rows.shape == (1, task.statistics_size)
    metrics = task.metrics(rows.sum(0).numpy())
    assert metrics["mask_ap50"] == metrics["f1"] == pytest.approx(1.0)
    assert float(task.private_rows(said(touching())[:, None], batch).norm()) <= 1 + 1e-12


def test_a_clip_of_crossing_cells_is_followed() -> None:
    values, mask = draw_clip(np.random.default_rng(1), 48)
    task = task_of("tracking", [len(values), 48, 48])
    numbers = torch.from_numpy(mask.astype(np.int64))
    batch = Batch({"image": torch.from_numpy(values).float()[None, None], "instances": numbers[None, None]})
    rows = task.rows(said(numbers)[None], batch)
    assert rows.min() >= 0
    assert rows.max() <= 1
    assert task.metrics(rows.sum(0).numpy())["idf1"] > 0.8
