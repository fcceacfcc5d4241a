"""Faster R-CNN: features at the right points, proposals as by the plain loop, and a second stage that corrects the first."""

from typing import Any

import pytest
import torch
from tests.moved_boxes import moves_between

from salus.common.batch import Batch, example_batch
from salus.common.job import TaskSettings
from salus.common.models import build_model
from salus.common.models.detectors.two_stage import PROPOSAL_OVERLAP, Proposer, TwoStage, aligned, overlaps
from salus.common.tasks import make_task

SMALL: dict[str, Any] = {
    "widths": (4, 8, 8, 8), "neck_width": 8, "most_objects": 3, "fine_sizes": (8.0,), "coarse_sizes": (16.0,),
    "ratios": (1.0,), "proposals": 6, "hidden": 16,
}  # fmt: skip


def settings_of(shape: tuple[int, ...] = (32, 32)) -> TaskSettings:
    return TaskSettings(kind="detection", model="faster-rcnn", dataset="d", classes=("a", "b"), shape=shape, **SMALL)


@pytest.mark.parametrize("grid", [(4, 6), (4, 5, 6)])
def test_features_are_those_at_the_points_of_a_box(grid: tuple[int, ...]) -> None:
    """Features that are their own position in pixels must come back as the points themselves."""
    dims = len(grid)
    axes = [(torch.arange(side) + 0.5) * 8 for side in grid]
    features = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None].expand(2, *[-1] * (dims + 1))
    boxes = torch.tensor([[[6.0] * dims + [18.0] * dims, [8.0] * dims + [24.0] * dims]]).expand(2, -1, -1)
    found = aligned(features, boxes, 2, 8.0).reshape(2, 2, dims, *[2] * dims)
    for number, points in enumerate([(9.0, 15.0), (12.0, 20.0)]):
        want = torch.stack(torch.meshgrid(*[torch.tensor(points)] * dims, indexing="ij"))
        assert torch.allclose(found[1, number], want, atol=1e-4)


def test_proposals_are_those_of_the_plain_loop() -> None:
    proposer = Proposer(settings_of())
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, len(proposer.anchors), 5, generator=generator) * 0.5
    for item, found in enumerate(proposer.proposals(outputs, 3)):
        boxes, kept = proposer.moved(outputs[item, :, 1:]), []
        for place in outputs[item, :, 0].argsort(descending=True).tolist()[:12]:
            near = [float(overlaps(boxes[None, [place]], boxes[None, [other]])) for other in kept]
            kept += [place] if all(overlap <= PROPOSAL_OVERLAP for overlap in near) else []
        assert len(kept) >= 3
        assert torch.equal(found, boxes[kept[:3]])


@pytest.mark.parametrize("shape", [(32, 32), (32, 16, 32)])
def test_proposals_are_moved_to_their_objects_and_named(shape: tuple[int, ...]) -> None:
    meaning, dims = TwoStage(settings_of(shape)), len(shape)
    box = torch.tensor([[[3.0] * dims + [12.0] * dims]])
    proposal = torch.tensor([[[4.0] * dims + [13.0] * dims]])
    row = torch.cat([proposal, torch.tensor([[[-9.0, -9.0, 9.0]]]), moves_between(proposal, box)], dim=2)
    first = torch.zeros(1, len(meaning.first.anchors), meaning.numbers)
    outputs = torch.cat([first, row], dim=1)
    found = meaning.found(outputs[0], 3, 0.5)
    sure = found.scores > 0.5
    assert found.classes[sure].tolist() == [1]
    assert torch.allclose(found.boxes[sure], box[0], atol=1e-4)
    true, there = torch.cat([box, torch.ones(1, 1, 1)], dim=2), torch.ones(1, 1)
    wrong = torch.cat([first, torch.cat([proposal, -row[..., 2 * dims :]], dim=2)], dim=1)
    assert float(meaning.losses(outputs, true, there)) + 1 < float(meaning.losses(wrong, true, there))


def test_images_have_no_influence_on_each_other() -> None:
    task = make_task(settings_of())
    network, batch = build_model(task.settings, 0).double(), example_batch(task.spec, 3).double()
    together = task.losses(network, batch, task.steps[0])
    assert torch.isfinite(together).all()
    for place in range(3):
        alone = task.losses(network, batch.rows(slice(place, place + 1)), task.steps[0])
        assert torch.allclose(alone, together[place : place + 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_rows_of_a_diverged_model_keep_their_bounds(value: float) -> None:
    task = make_task(settings_of())
    batch = example_batch(task.spec, 2)
    outputs = task.infer(build_model(task.settings, 0).eval(), batch).detach()
    generator = torch.Generator().manual_seed(0)
    bad = torch.where(torch.rand(outputs.shape, generator=generator) < 0.3, torch.tensor(value), outputs)
    rows = task.rows(bad, batch)
    assert bool(((rows >= 0) & (rows <= 1)).all())
    assert float(task.private_rows(bad, batch).norm(dim=1).max()) <= 1 + 1e-9


def test_it_learns_two_pictures() -> None:
    task = make_task(settings_of())
    network = build_model(task.settings, 0)
    images, boxes, there = torch.full((2, 1, 32, 32), -1.0), torch.zeros(2, 3, 5), torch.zeros(2, 3)
    images[0, 0, 4:12, 4:12], images[1, 0, 10:24, 8:24] = 1.0, 0.3
    boxes[0, 0], boxes[1, 0] = torch.tensor([4.0, 4, 12, 12, 0]), torch.tensor([10.0, 8, 24, 24, 1])
    there[:, 0] = 1
    batch = Batch({"image": images, "boxes": boxes, "boxes.there": there, "spacing": torch.zeros(2, 2)})
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(160):
        optimizer.zero_grad()
        task.losses(network, batch, task.steps[0]).sum().backward()
        optimizer.step()
    with torch.no_grad():
        rows = task.rows(task.infer(network.eval(), batch), batch)
    assert task.metrics(rows.sum(dim=0).numpy())["ap50_mean"] > 0.9
