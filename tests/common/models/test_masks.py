"""Mask R-CNN: boxes and masks of annotated objects by a plain loop, pictures of right outputs, and refused combinations."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.moved_boxes import moves_between

from salus.common.batch import Batch, example_batch
from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.models import build_model
from salus.common.models.detectors.masks import RegionMasks, boxes_of, masks_in, painted
from salus.common.tasks import make_task
from salus.common.tasks.centres import overlaps
from salus.common.tasks.instances import Instances

SMALL: dict[str, Any] = {
    "widths": (4, 8, 8, 8), "neck_width": 8, "most_objects": 3, "fine_sizes": (8.0,), "coarse_sizes": (16.0,),
    "ratios": (1.0,), "proposals": 6, "hidden": 16, "mask_size": 14, "mask_width": 4,
}  # fmt: skip


def settings_of(kind: str = "instances", shape: tuple[int, ...] = (32, 32), model: str = "mask-rcnn") -> TaskSettings:
    own = SMALL if model == "mask-rcnn" and kind in ("instances", "tracking") else {}
    classes = ("a", "b") if kind == "classification" else ("cell",)
    return TaskSettings(kind=kind, model=model, dataset="d", classes=classes, shape=shape, **own)


def both(task: TaskSettings) -> None:
    make_task(task)
    build_model(task, 0)


def touching() -> torch.Tensor:
    numbers = torch.zeros(2, 32, 32, dtype=torch.int64)
    numbers[0, 4:14, 3:11], numbers[0, 6:16, 11:22] = 1, 3
    return numbers


def said(meaning: RegionMasks, numbers: torch.Tensor, sure: float = 9.0) -> torch.Tensor:
    """Return the outputs of a network that proposes a box near each object, and whose masks are right."""
    true, there = boxes_of(numbers, 3, torch.zeros(()))
    near = true + torch.tensor([1.0, -1.0, 1.0, -1.0])
    logits = torch.stack([-there * sure, there * sure], dim=2) + torch.tensor([0.0, -1e-3])
    rows = torch.zeros(len(numbers), meaning.proposals, meaning.boxes.numbers)
    rows[:, :3] = torch.cat([near, logits, moves_between(near, true)], dim=2) * there[..., None]
    rows[:, :, 4] += (logits.new_ones(()) * 9) * (rows[..., 4:6].abs().sum(dim=2) == 0)  # the others hold nothing
    masks = torch.full((len(numbers), meaning.proposals, 14, 14), -sure)
    which = torch.arange(1, 4).expand(len(numbers), -1)
    masks[:, :3] = torch.where(masks_in(numbers, true, which, 14), sure, -sure)
    first = torch.zeros(len(numbers), len(meaning.boxes.first.anchors) * meaning.boxes.numbers)
    return torch.cat([first, rows.flatten(1), masks.flatten(1)], dim=1)


def test_boxes_and_masks_are_those_of_a_plain_loop() -> None:
    numbers = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (3, 9, 12)))
    numbers[0][numbers[0] == 2] = 0
    boxes, there = boxes_of(numbers, 5, torch.zeros((), dtype=torch.float64))
    found = boxes + torch.tensor([-2.5, 1.25, 3.0, 2.0])  # outside of the picture, too
    masks = masks_in(numbers, found, torch.arange(1, 6).expand(3, -1), 4)
    for picture in range(3):
        for number in range(1, 6):
            places = (numbers[picture] == number).nonzero()
            assert bool(there[picture, number - 1]) == bool(len(places))
            if len(places):
                want = [*places.min(dim=0).values.tolist(), *(places.max(dim=0).values + 1).tolist()]
                assert boxes[picture, number - 1].tolist() == want
            low, high = found[picture, number - 1].reshape(2, 2)
            for row, column in np.ndindex(4, 4):
                y, x = (low + (torch.tensor([row, column]) + 0.5) / 4 * (high - low)).floor().long().tolist()
                inside = 0 <= y < 9 and 0 <= x < 12
                right = inside and int(numbers[picture, y, x]) == number
                assert bool(masks[picture, number - 1, row, column]) == right


def test_a_mask_is_painted_where_it_was_taken() -> None:
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(30), indexing="ij")
    numbers = (((rows - 18) / 9) ** 2 + ((columns - 12) / 7) ** 2 < 1).long()[None]
    box = boxes_of(numbers, 1, torch.zeros(()))[0]
    mask = masks_in(numbers, box, torch.ones(1, 1), 14)[0, 0].float() * 20 - 10
    drawn = painted(mask, box[0, 0], numbers.shape[1:]) > 0.5
    assert float(overlaps(drawn.long(), numbers[0], (1, 1))) > 0.9
    assert not painted(mask, box[0, 0] + 100, numbers.shape[1:]).any()


def test_right_outputs_become_the_objects_and_have_the_smaller_loss() -> None:
    meaning, numbers = RegionMasks(settings_of()), touching()
    outputs = said(meaning, numbers)
    found, scores = meaning.objects(outputs[0], 3, 0.3)
    assert len(scores) == 2
    true = numbers[0].clamp(max=2)
    assert float(overlaps(found, true, (2, 2)).max(dim=0).values.min()) == pytest.approx(1.0)
    assert len(meaning.objects(outputs[0], 1, 0.3)[1]) == 1
    assert not len(meaning.objects(outputs[1], 3, 0.3)[1])
    wrong = outputs.clone()
    wrong[:, -meaning.proposals * 14 * 14 :] *= -1
    better, worse = meaning.losses(outputs, numbers, 3), meaning.losses(wrong, numbers, 3)
    assert float(better[0]) + 5 < float(worse[0])
    assert float(better[1]) == float(worse[1])  # no object, so no mask is asked for


def test_an_object_that_is_found_twice_counts_once() -> None:
    meaning, numbers = RegionMasks(settings_of()), touching()
    rows, masks = meaning.split(said(meaning, numbers)[0])
    box = torch.tensor([0.0, 0.0, 14.0, 22.0])  # around the first object, which its mask shows again
    rows[-meaning.proposals + 1] = torch.cat([box, torch.tensor([-1.0, 1.0, 0.0, 0.0, 0.0, 0.0])])
    wider = torch.zeros(1, 32, 32, dtype=torch.int64)
    wider[0, 3:15, 2:11] = 1
    masks[1] = torch.where(masks_in(wider, box[None, None], torch.ones(1, 1), 14)[0, 0], 9.0, -9.0)
    outputs = torch.cat([rows.flatten(), masks.flatten()])
    assert len(meaning.objects(outputs, 3, 0.3)[1]) == 2
    masks[0] = -9.0  # without the first mask, the second is what is seen
    found, scores = meaning.objects(torch.cat([rows.flatten(), masks.flatten()]), 3, 0.3)
    assert len(scores) == 2
    assert float(overlaps(found, numbers[0].clamp(max=2), (2, 2)).max(dim=0).values.min()) > 0.6


def test_pictures_have_no_influence_on_each_other() -> None:
    task = make_task(settings_of())
    network, batch = build_model(task.settings, 0).double(), example_batch(task.spec, 3).double()
    together = task.losses(network, batch, task.steps[0])
    assert torch.isfinite(together).all()
    for place in range(3):
        alone = task.losses(network, batch.rows(slice(place, place + 1)), task.steps[0])
        assert torch.allclose(alone, together[place : place + 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_rows_of_a_diverged_model_keep_their_bounds(value: float) -> None:
    task = make_task(settings_of(shape=(2, 32, 32)))
    assert isinstance(task, Instances)
    batch = example_batch(task.spec, 2)
    outputs = task.infer(build_model(task.settings, 0), batch).detach()
    rows = task.rows(torch.full_like(outputs, value), batch)
    assert rows.shape == (2, task.statistics_size)
    assert float(rows.min()) >= 0
    assert float(rows.max()) <= 1


def test_rows_of_right_outputs() -> None:
    task = make_task(settings_of())
    assert isinstance(task, Instances)
    assert isinstance(task.masks, RegionMasks)
    batch = Batch({"image": torch.zeros(2, 1, 32, 32), "instances": touching()[:, None]})
    metrics = task.metrics(task.rows(said(task.masks, touching())[:, None], batch).sum(0).numpy())
    assert metrics["mask_ap50"] == metrics["f1"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("kind", "model", "said"),
    [
        ("instances", "retinanet", 'gives no masks of single objects.*"mask-rcnn".*"detection"'),
        ("instances", "unet", "gives no masks of single objects"),
        ("tracking", "faster-rcnn", "gives no masks of single objects"),
        ("detection", "mask-rcnn", 'gives no boxes.*"instances"'),
        ("classification", "mask-rcnn", "finds objects"),
        ("segmentation", "mask-rcnn", "finds objects"),
    ],
)
def test_combinations_without_meaning_are_refused_by_name(kind: str, model: str, said: str) -> None:
    shape = (2, 32, 32) if kind == "tracking" else (32, 32)
    with pytest.raises(JobError, match=said):
        both(settings_of(kind, shape, model))
