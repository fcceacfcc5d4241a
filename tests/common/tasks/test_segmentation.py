"""The segmentation task on tensors in memory: per-item losses, additive rows, windows, flips, private rows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salus.common.batch import Batch, example_batch
from salus.common.errors import DataError, JobError, UnreadableImage
from salus.common.estimates import Estimate
from salus.common.examples import Example
from salus.common.job import TaskSettings
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.tasks.segmentation import Segmentation

SHAPE = (8, 12)


def task_of(
    classes: tuple[str, ...] = ("anterior", "posterior"), shape: tuple[int, ...] = SHAPE, **own: object
) -> Segmentation:
    values = {
        "kind": "segmentation",
        "model": "unet",
        "dataset": "d",
        "classes": classes,
        "shape": shape,
        "widths": (4, 8),
    }
    task = make_task(TaskSettings(**{**values, **own}))  # type: ignore[arg-type]
    assert isinstance(task, Segmentation)
    return task


KINDS = [
    {"classes": ("a", "b")},
    {"classes": ("a",)},
    {"classes": ("a", "b"), "multi_label": True},
    {"shape": (6, 5, 7)},
    {"deep_supervision": True, "widths": (4, 8, 8)},
]


@pytest.mark.parametrize("own", KINDS)
def test_the_loss_of_an_item_does_not_depend_on_the_others(own: dict[str, object]) -> None:
    task = task_of(**own)  # type: ignore[arg-type]
    model = build_model(task.settings, 0).double().train()
    batch = example_batch(task.spec, 3).double()
    (step,) = task.steps
    losses = task.losses(model, batch, step)
    assert losses.shape == (3,)
    alone = torch.cat([task.losses(model, batch.rows(slice(i, i + 1)), step) for i in range(3)])
    assert torch.allclose(losses, alone)


@pytest.mark.parametrize("own", KINDS)
def test_rows_lie_between_0_and_1_and_private_rows_within_the_ball(own: dict[str, object]) -> None:
    task = task_of(**own)  # type: ignore[arg-type]
    model = build_model(task.settings, 0).eval()
    batch = example_batch(task.spec, 4)
    outputs = task.infer(model, batch)
    rows, private = task.rows(outputs, batch), task.private_rows(outputs, batch)
    assert rows.shape == (4, task.statistics_size)
    assert private.shape == (4, task.private_statistics_size)
    assert rows.dtype == private.dtype == torch.float64
    assert bool(((rows >= 0) & (rows <= 1)).all())
    assert bool((private.norm(dim=1) <= 1 + 1e-12).all())
    each = torch.cat([task.rows(outputs[i : i + 1], batch.rows(slice(i, i + 1))) for i in range(4)])
    assert torch.allclose(rows, each)


def perfect(task: Segmentation, mask: torch.Tensor) -> torch.Tensor:
    """Logits of a model without any error."""
    wanted = task.wanted(mask).double()
    if not (task.settings.classes[1:] and not getattr(task.settings, "multi_label", False)):
        return 20 * wanted - 10
    return 20 * torch.cat([1 - wanted.sum(1, keepdim=True), wanted], 1) - 10


@pytest.mark.parametrize("own", KINDS[:4])
def test_a_perfect_model_has_perfect_metrics(own: dict[str, object]) -> None:
    task = task_of(**own)  # type: ignore[arg-type]
    batch = example_batch(task.spec, 5)
    metrics = task.metrics(task.rows(perfect(task, batch["mask"]), batch).sum(0).numpy())
    for name in task.settings.classes:
        assert metrics[f"dice_{name}"] == metrics[f"surface_dice_{name}"] == 1.0
        assert metrics[f"hausdorff95_mm_{name}"] < 0.5
    assert metrics["dice_mean"] == 1.0
    assert metrics["loss"] < 0.01
    assert set(task.headline) <= set(metrics)


def test_a_blind_model_has_no_overlap() -> None:
    task = task_of()
    batch = example_batch(task.spec, 5)
    background = torch.zeros(5, 3, *SHAPE)
    background[:, 0] = 10
    metrics = task.metrics(task.rows(background, batch).sum(0).numpy())
    assert metrics["dice_mean"] == 0.0
    assert metrics["missed_anterior"] == 1.0


def test_metrics_without_items_are_empty() -> None:
    task = task_of()
    assert task.metrics(np.zeros(task.statistics_size)) == {}


def test_private_metrics_have_errors_and_forecasts() -> None:
    task = task_of()
    batch = example_batch(task.spec, 40)
    found = task.private_metrics(task.private_rows(perfect(task, batch["mask"]), batch).sum(0).numpy(), 0.1)
    dice = found["dice_mean"]
    assert isinstance(dice, Estimate)
    assert dice.value == pytest.approx(1.0)
    assert set(found) == set(task.foretold(500, 1.0)) == {"dice_mean", "dice_anterior", "dice_posterior"}


@settings(max_examples=15)
@given(shape=st.tuples(st.integers(4, 30), st.integers(4, 30)))
def test_images_of_any_size_are_predicted_in_windows(shape: tuple[int, int]) -> None:
    task = task_of()
    model = build_model(task.settings, 0).eval()
    with torch.no_grad():
        outputs = task.infer(model, Batch({"image": torch.randn(2, 1, *shape)}))
    assert outputs.shape == (2, 3, *shape)
    assert bool(torch.isfinite(outputs).all())


class Pointwise(torch.nn.Module):
    """A network that looks at each voxel alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, -x, x**2], dim=1)


def test_windows_do_not_change_what_a_voxel_alone_decides() -> None:
    image = torch.randn(1, 1, 21, 30)
    assert torch.allclose(task_of().infer(Pointwise(), Batch({"image": image})), Pointwise()(image), atol=1e-5)


def test_flipped_copies_are_averaged() -> None:
    task = task_of(test_flips=("x", "y"))
    model = build_model(task.settings, 0).eval()
    image = torch.randn(2, 1, *SHAPE)
    with torch.no_grad():
        found = task.infer(model, Batch({"image": image}))
        each = [model(image.flip(axes)).flip(axes) for axes in ([], [2], [3], [2, 3])]
        mirrored = task.infer(model, Batch({"image": image.flip(3)}))
    assert torch.allclose(found, torch.stack(each).mean(0), atol=1e-5)
    assert torch.allclose(mirrored, found.flip(3), atol=1e-5)


def example(mask: np.ndarray, affine: np.ndarray | None = None) -> Example:  # type: ignore[type-arg]
    return Example(
        {"image": np.zeros((1, *mask.shape[1:]), np.float32), "mask": mask}, frozenset({"image", "mask"}), affine
    )


def test_prepared_items_have_the_fields_of_the_spec() -> None:
    task = task_of()
    affine = np.diag([3.0, 0.5, 0.7, 1.0])
    item = task.prepare(example(np.full((1, *SHAPE), 2, np.uint8), affine))
    assert {name: tuple(tensor.shape) for name, tensor in item.items()} == {
        name: field.shape for name, field in task.spec.items()
    }
    assert item["mask"].dtype == torch.int64
    assert item["spacing"].tolist() == pytest.approx([0.5, 0.7])  # of y and x in a plane
    assert task.prepare(example(np.zeros((1, *SHAPE), np.uint8)))["spacing"].tolist() == [1.0, 1.0]


def test_class_numbers_serve_as_masks_that_do_not_overlap() -> None:
    task = task_of(multi_label=True)
    mask = np.zeros((1, *SHAPE), np.uint8)
    mask[0, 0], mask[0, 1] = 1, 2
    found = task.prepare(example(mask))["mask"]
    assert found.shape == (2, *SHAPE)
    assert found[0, 0].all()
    assert found[1, 1].all()
    assert found.sum() == 2 * SHAPE[1]


def test_masks_that_do_not_fit_the_job_are_unreadable() -> None:
    with pytest.raises(UnreadableImage) as overlapping:
        task_of().prepare(example(np.zeros((2, *SHAPE), np.uint8)))
    assert overlapping.value.reason == "overlapping-structures"
    with pytest.raises(UnreadableImage) as unknown:
        task_of().prepare(example(np.full((1, *SHAPE), 3, np.uint8)))
    assert unknown.value.reason == "bad-mask"
    with pytest.raises(DataError, match="2 dimensions, got 1 and 3"):
        task_of().prepare(example(np.zeros((1, 4, 4, 4), np.uint8)))


def test_an_image_without_a_mask_can_be_predicted() -> None:
    task = task_of()
    example = Example({"image": np.zeros((1, 20, 30), np.float32)}, frozenset({"image"}))
    item = task.prepare(task.chain.traced(example)[-1])
    assert set(item) == {"image", "spacing"}
    assert item["image"].shape == (1, *SHAPE)
    assert bool((item["image"] == -1).all())


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(JobError, match="2 or 3 sides in task.shape"):
        task_of(shape=(8,))
    with pytest.raises(JobError, match=r"at least one structure .* got classes \[\]"):
        task_of(classes=())
    with pytest.raises(JobError, match="task.test_flips from y, x"):
        task_of(test_flips=("z",))
    with pytest.raises(JobError, match="unknown|one of"):
        task_of(loss="hinge")


def test_an_image_whose_outputs_no_machine_has_memory_for_is_left_out() -> None:
    """Images of any size are evaluated window by window, and the outputs are as large as the image, for each structure."""
    many = task_of(classes=tuple(f"s{number}" for number in range(1000)))
    large = np.broadcast_to(np.float32(0.0), (1, 1100, 1100))  # of one number in memory
    with pytest.raises(UnreadableImage, match="too many voxels for the number of the job's structures"):
        many.prepare(Example({"image": large}, frozenset({"image"})))
    assert "image" in task_of().prepare(Example({"image": large}, frozenset({"image"})))
