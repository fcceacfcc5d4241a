"""Detection: boxes that move with images, detectors that understand their own targets, and average precision from sums."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.common.transforms.worlds import make
from tests.moved_boxes import moves_between
from tests.simulations.sample_jobs.detection import objects
from tests.tiny import Tiny, run_tiny, tiny_job

from salus.client.data.examples import _classes_as_the_job_counts, lacking
from salus.client.data.targets import Target
from salus.common.batch import THERE, Batch, example_batch
from salus.common.errors import JobError, UnreadableImage
from salus.common.examples import Example
from salus.common.job import TaskSettings
from salus.common.models import build_model
from salus.common.models.detectors.anchors import AnchorDetector, Objectness, Softmax
from salus.common.models.detectors.corners import CornerDetector, largest
from salus.common.tasks import make_task
from salus.common.tasks.detection import overlaps
from salus.common.tasks.objects import padded_objects
from salus.common.transforms.checks import check_chain

SMALL = {"widths": (4, 4, 4, 4), "neck_width": 8, "most_objects": 5}
ANCHORS = {"fine_sizes": (8.0,), "coarse_sizes": (16.0,), "ratios": (1.0,)}
WITHOUT_ANCHORS = ("centernet", "cornernet")
MODELS = ("retinanet", "ssd", "yolo", *WITHOUT_ANCHORS)


def task_of(model: str, shape: tuple[int, ...] = (32, 32), **own: Any):
    more = {} if model in WITHOUT_ANCHORS else ANCHORS
    values = {"kind": "detection", "model": model, "dataset": "d", "classes": ("a", "b"), "shape": shape}
    return make_task(TaskSettings(**values, **{**SMALL, **more, **own}))


def batch_of(task, boxes: list[list[list[float]]]) -> Batch:
    fields = [padded_objects(np.array(one, np.float32).reshape(-1, 2 * task.dims + 1), 5, task.dims) for one in boxes]
    image, spacing = torch.zeros(len(boxes), 1, *task.settings.shape), torch.zeros(len(boxes), task.dims)
    return Batch(
        {"image": image, "spacing": spacing, **{name: torch.stack([one[name] for one in fields]) for name in fields[0]}}
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), dims=st.sampled_from([2, 3]))
def test_boxes_move_with_the_image(seed: int, dims: int) -> None:
    """The box around a bright block must be the block's own box after every exact change of the grid."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(side) for side in rng.integers(8, 14, dims))
    low = np.array([int(rng.integers(0, side - 3)) for side in shape])
    high = low + np.array([int(rng.integers(2, side - a + 1)) for side, a in zip(shape, low, strict=True)])
    image = np.zeros((1, *shape), np.float32)
    image[(0, *(slice(a, b) for a, b in zip(low, high, strict=True)))] = 1.0
    example = Example({"image": image, "boxes": np.array([[*low, *high, 2.0]], np.float32)}, frozenset({"image"}))
    steps = [
        make("flip", probability=1.0, axes=tuple(range(dims))),
        make("pad", size=(16,) * dims),
        make("center-crop", size=(16,) * dims),
    ]
    for step in steps:
        example = step(example, np.random.default_rng(seed))
        places = np.argwhere(example["image"][0] > 0.5)
        assert example["boxes"].tolist() == [[*places.min(axis=0), *(places.max(axis=0) + 1), 2.0]]
    double = make("resize", size=(32,) * dims)(example, None)
    assert np.allclose(double["boxes"][0, :-1], 2 * example["boxes"][0, :-1])


def test_objects_that_leave_the_image_are_left_out_and_others_are_cut() -> None:
    boxes = np.array([[0, 0, 4, 4, 1], [6, 6, 10, 10, 2], [2, 2, 9, 9, 1]], np.float32)
    example = Example({"image": np.zeros((1, 12, 12), np.float32), "boxes": boxes}, frozenset({"image"}))
    found = make("center-crop", size=(6, 6))(example, None)["boxes"]
    assert found.tolist() == [[3, 3, 6, 6, 2], [0, 0, 6, 6, 1]]


def test_classes_are_matched_by_name() -> None:
    boxes = np.array([[0, 0, 1, 1, 1], [0, 0, 2, 2, 2], [0, 0, 3, 3, 3]], np.float32)
    found = _classes_as_the_job_counts(boxes, ("x", "b", "a"), ("a", "b"))
    assert found[:, 2:].tolist() == [[2, 2, 2], [3, 3, 1]]
    assert _classes_as_the_job_counts(boxes, (), ("a", "b"))[:, -1].tolist() == [1, 2]


def test_the_error_of_a_diameter_is_in_millimetres_and_only_of_right_objects() -> None:
    task = task_of("retinanet")
    truth = [[2, 2, 12, 10, 1], [16, 16, 28, 30, 2]]
    batch = batch_of(task, [truth, truth, truth])
    batch.fields["spacing"][1] = torch.tensor([0.5, 2.0])
    said = torch.tensor([[2.0, 2, 14, 10], [16, 16, 28, 29], [0, 20, 8, 28]])
    task.found = lambda outputs: _Found(said, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 1]))  # type: ignore[method-assign]
    rows = task.rows(torch.zeros(3, 1, 1), batch)
    assert "diameter_error_mm" not in task.metrics(rows[0].numpy())
    # Sides of the annotated ones are 5 x 16 and 6 x 28 mm, of the found ones 6 x 16 and 6 x 26 mm.
    assert task.metrics(rows.sum(dim=0).numpy())["diameter_error_mm"] == pytest.approx((0 + 2) / 2)
    batch.fields["spacing"][1] = 1e6
    assert float(task.rows(torch.zeros(3, 1, 1), batch).max()) <= 1


def test_an_image_without_objects_of_a_class_is_not_left_out() -> None:
    """A file of PASCAL VOC names only the classes that its image shows; the image teaches that the others are not there."""
    task = task_of("retinanet")
    assert lacking({"boxes": Target("boxes", {"a": 3.0})}, task) == ""
    assert lacking({"boxes": Target("boxes", {})}, task) == ""
    assert lacking({"boxes": Target("mask", {"a": 3.0, "b": 1.0})}, task) == "not-annotated"
    assert lacking({}, task) == "not-annotated"


def test_an_image_with_too_many_objects_is_left_out() -> None:
    with pytest.raises(UnreadableImage, match="most_objects"):
        padded_objects(np.array([[0, 0, 4, 4, 1]] * 3, np.float32), 2, 2)
    thin = padded_objects(np.array([[0, 0, 4, 0.5, 1], [0, 0, 4, 4, 2]], np.float32), 2, 2)
    assert thin["boxes.there"].tolist() == [1.0, 0.0]
    assert thin["boxes"][0].tolist() == [0, 0, 4, 4, 1]


def says_the_truth(task, batch: Batch) -> torch.Tensor:
    """Return outputs from which the two objects of the first item follow."""
    detector, boxes, there, dims = task.detector, batch["boxes"], batch["boxes" + THERE], task.dims
    if isinstance(detector, AnchorDetector):
        best = detector._best_anchors(detector._overlaps(boxes[..., :-1], there), there)[0]
        outputs = torch.full((1, len(detector.anchors), detector.numbers), -9.0)
        outputs[..., -2 * dims :] = 0.0
        if isinstance(detector, Softmax):
            outputs[..., 0] = 9.0
        for number in range(2):
            place = int(best[:, number].nonzero()[0])
            outputs[0, place, detector.extra + number] = 9.0
            if detector.extra:
                outputs[0, place, 0] = 9.0 if isinstance(detector, Objectness) else -9.0
            outputs[0, place, -2 * dims :] = moves_between(detector.corners[place], boxes[0, number, :-1])
    elif isinstance(detector, CornerDetector):
        parts = torch.full((2, len(detector.places), detector.numbers), -9.0)
        for number, end in itertools.product(range(2), range(2)):
            corner = boxes[0, number, 2 * end : 2 * end + 2] / 4
            offset = corner - detector.places
            place = int(offset.abs().amax(dim=1).argmin())
            parts[end, place, int(boxes[0, number, -1])] = 9.0
            parts[end, place, 2:] = torch.tensor([3.0 * number, *offset[place]])
        outputs = torch.cat([*parts], dim=1)[None]
    else:
        outputs = torch.full((1, len(detector.places), detector.numbers), -9.0)
        for number in range(2):
            low, high = boxes[0, number, :-1].split(dims)
            offset = ((low + high) / 2 / 4)[None] - detector.places
            place = int(offset.abs().amax(dim=1).argmin())
            outputs[0, place, number] = 9.0
            outputs[0, place, 2:] = torch.cat([offset[place], ((high - low) / 4).log()])
    return outputs


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (model, shape)
        for model in MODELS
        for shape in ((32, 32), (32, 16, 32))
        if model != "cornernet" or len(shape) == 2
    ],
)
def test_outputs_that_say_the_truth_are_decoded_to_it(model: str, shape: tuple[int, ...]) -> None:
    task = task_of(model, shape)
    dims = len(shape)
    truth = [
        [*([3.0] * dims), *([12.0] * dims), 1.0],
        [*([14.0] + [2.0] * (dims - 1)), *([30.0] + [13.0] * (dims - 1)), 2.0],
    ]
    batch = batch_of(task, [truth])
    outputs = says_the_truth(task, batch)
    boxes, there = batch["boxes"], batch["boxes" + THERE]
    found = task.found(outputs[0])
    sure = found.scores > 0.5
    assert sorted(found.classes[sure].tolist()) == [0, 1]
    assert float(overlaps(found.boxes[sure], boxes[0, :2, :-1]).max(dim=1).values.min()) > 0.99
    row = task.rows(outputs, batch)
    assert task.metrics(row.sum(dim=0).numpy())["ap50_mean"] == pytest.approx(1.0)
    right = task.detector.losses(outputs, boxes, there)
    wrong = task.detector.losses(-outputs, boxes, there)
    assert float(right) < 0.1 * float(wrong)


@pytest.mark.parametrize("model", MODELS)
def test_absent_objects_and_other_images_have_no_influence(model: str) -> None:
    task = task_of(model)
    net = build_model(task.settings, 0)
    batch = batch_of(task, [[[2, 2, 10, 10, 1]], [], [[5, 5, 20, 30, 2], [0, 0, 8, 8, 1]]])
    image = torch.randn(batch["image"].shape, generator=torch.Generator().manual_seed(0))
    fields = {**batch.fields, "image": image}
    filled = dict(fields)
    filled["boxes"] = torch.where(
        batch["boxes" + THERE][..., None] > 0, batch["boxes"], torch.tensor([1.0, 1.0, 9.0, 9.0, 0.0])
    )
    together = task.losses(net, Batch(fields), task.steps[0])
    assert torch.allclose(together, task.losses(net, Batch(filled), task.steps[0]), rtol=1e-5)
    for place in range(3):
        alone = task.losses(net, Batch(fields).rows(slice(place, place + 1)), task.steps[0])
        assert torch.allclose(alone, together[place : place + 1], rtol=1e-4)
    assert torch.isfinite(together).all()


def test_average_precision_is_that_of_cocos_tool_up_to_the_bins() -> None:
    from faster_coco_eval import COCO, COCOeval_faster

    task = task_of("retinanet", most_objects=5)
    rng = np.random.default_rng(0)
    images, annotations, results, totals = [], [], [], np.zeros(task.statistics_size)
    for number in range(60):
        true = _random_boxes(rng, 4)
        said = np.concatenate([true + rng.normal(0, 1.2, true.shape), _random_boxes(rng, 1)])[:5]
        kinds = rng.integers(0, 2, len(true))
        said_kinds = np.concatenate([kinds, rng.integers(0, 2, 1)])[:5]
        scores = np.round(rng.uniform(0.02, 0.98, len(said)) * 50) / 50 - 0.01
        images.append({"id": number, "width": 32, "height": 32})
        for box, kind in zip(true, kinds, strict=True):
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": int(kind), "iscrowd": 0,
                                "bbox": _xywh(box), "area": float(np.prod(box[2:] - box[:2]))})  # fmt: skip
        for box, kind, score in zip(said, said_kinds, scores, strict=True):
            results.append({"image_id": number, "category_id": int(kind), "bbox": _xywh(box), "score": float(score)})
        found = _Found(torch.tensor(said), torch.tensor(scores), torch.tensor(said_kinds))
        task.found = lambda outputs, found=found: found  # type: ignore[method-assign]
        field = padded_objects(np.concatenate([true, kinds[:, None] + 1], axis=1).astype(np.float32), 5, 2)
        batch = Batch({"spacing": torch.zeros(1, 2), **{name: tensor[None] for name, tensor in field.items()}})
        totals += task.rows(torch.zeros(1, 1, 1), batch)[0].numpy()
    truth = COCO(
        {"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]}
    )
    judge = COCOeval_faster(truth, truth.loadRes(results), "bbox")
    judge.params.iouThrs = np.array([0.5])
    judge.evaluate()
    judge.accumulate()
    expected = judge.eval["precision"][0, :, :, 0, -1].mean(axis=0)
    metrics = task.metrics(totals)
    assert [metrics["ap50_a"], metrics["ap50_b"]] == pytest.approx(expected.tolist(), abs=0.02)
    assert 0.3 < metrics["ap50_mean"] < 0.95, "the example must be neither hopeless nor perfect"


class _Found:
    def __init__(self, boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor) -> None:
        order = scores.argsort(descending=True, stable=True)
        self.boxes, self.scores, self.classes = boxes[order], scores[order], classes[order]

    def of_class(self, number: int) -> "_Found":
        mine = self.classes == number
        return _Found(self.boxes[mine], self.scores[mine], self.classes[mine])


def _random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    low = rng.uniform(0, 20, (count, 2))
    return np.concatenate([low, low + rng.uniform(5, 11, (count, 2))], axis=1)


def _xywh(box: np.ndarray) -> list[float]:
    return [float(box[1]), float(box[0]), float(box[3] - box[1]), float(box[2] - box[0])]


def test_corners_are_paired_by_their_numbers_only() -> None:
    """Two objects of one class side by side: boxes from a corner of one to a corner of the other must not appear."""
    task = task_of("cornernet")
    batch = batch_of(task, [[[2, 2, 12, 12, 1], [2, 16, 12, 28, 1]]])
    outputs = says_the_truth(task, batch)
    found = task.found(outputs[0])
    assert int((found.scores > 0.5).sum()) == 2
    same = outputs.clone()
    same[..., [2, 7]] = 0.0
    assert int((task.found(same[0]).scores > 0.5).sum()) > 2


def test_the_largest_values_along_an_axis_are_those_of_the_plain_loop() -> None:
    values = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    on, up = largest(values, 2, on=True), largest(values, 3, on=False)
    for place in range(5):
        assert torch.equal(on[:, :, place], values[:, :, place:].amax(dim=2))
    for place in range(4):
        assert torch.equal(up[..., place], values[..., : place + 1].amax(dim=3))


def test_a_finer_level_finds_anchors_for_small_objects() -> None:
    task = task_of("retinanet", finest_sizes=(5.0,))
    detector = task.detector
    assert len(detector.anchors) == 64 + 16 + 4
    assert build_model(task.settings, 0)(torch.zeros(1, 1, 32, 32)).shape == (1, 84, 6)
    small = torch.tensor([[[7.5, 7.5, 12.5, 12.5]]])
    assert float(detector._overlaps(small, torch.ones(1, 1)).max()) > 0.6
    assert float(task_of("retinanet").detector._overlaps(small, torch.ones(1, 1)).max()) < 0.5


def test_what_does_not_fit_is_refused_before_any_data() -> None:
    with pytest.raises(JobError, match="2-D"):
        task_of("cornernet", (16, 16, 16))
    with pytest.raises(JobError, match="gives no boxes"):
        make_task(TaskSettings(kind="detection", model="cnn", dataset="d", classes=("a",), shape=(8, 8)))
    steps = ({"kind": "resize"}, {"kind": "elastic"})
    with pytest.raises(JobError, match="elastic"):
        check_chain(task_of("retinanet", transforms=steps))


@pytest.mark.parametrize("model", MODELS)
def test_a_private_row_is_bounded(model: str) -> None:
    task = task_of(model)
    batch = example_batch(task.spec, 4)
    outputs = task.infer(build_model(task.settings, 0), batch)
    assert float(task.private_rows(outputs, batch).norm(dim=1).max()) <= 1 + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_detectors_train_under_noise(tmp_path, noise: str) -> None:
    tiny = objects(tmp_path)
    privacy = {"noise": noise, "epsilon": 20.0, "sampling_rate": 0.5, "patients_per_site": 8, "evaluation_share": 0.2}
    change = {**tiny.change, "privacy": privacy, "training": {"batch_size": 8}}
    name = "phantom-retinanet.toml" if noise == "local" else "phantom-centernet.toml"
    changed = Tiny(tiny.data, change=change)
    assert "ap50_mean" in run_tiny(tiny_job(name, changed), changed, tmp_path / "run")["metrics"]
