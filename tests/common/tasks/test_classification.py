import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salus.common.batch import Batch, example_batch
from salus.common.errors import DataError, JobError
from salus.common.examples import Example
from salus.common.job import TaskSettings
from salus.common.tasks import TASKS, make_task
from salus.common.tasks.classification import Classification

BINARY = TaskSettings(kind="classification", model="cnn", dataset="d", classes=("a", "b"), shape=(8, 8))
THREE = BINARY.model_copy(update={"classes": ("a", "b", "c")})


def statistics(task: Classification, logits: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Return the summed rows."""
    rows = task.rows(logits, Batch({"label": labels}))
    assert rows.shape == (len(labels), task.statistics_size)
    assert rows.dtype == torch.float64
    return rows.sum(dim=0).numpy()


def image(values: np.ndarray, **more: np.ndarray) -> Example:
    return Example({"image": values, **more}, frozenset({"image"}))


def exact_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """The slow oracle: every pair of a positive and a negative."""
    positives, negatives = scores[labels == 1], scores[labels == 0]
    difference = positives[:, None] - negatives[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def test_metrics_agree_with_direct_computation() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (600,), generator=generator)
    logits = torch.randn(600, 2, generator=generator) * 2
    logits[:, 1] += labels * 1.5
    task = Classification(BINARY)
    metrics = task.metrics(statistics(task, logits, labels))
    p = torch.softmax(logits, 1)[:, 1].numpy()
    y = labels.numpy()
    assert metrics["auc"] == pytest.approx(exact_auc(p, y), abs=0.002)
    assert metrics["accuracy"] == pytest.approx(float(((p > 0.5) == y).mean()))
    assert metrics["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-6)
    assert metrics["recall_b"] == pytest.approx(float((p > 0.5)[y == 1].mean()))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 10_000))
def test_statistics_are_additive_and_each_item_adds_at_most_one(first: int, second: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for settings in (BINARY, THREE):
        task = Classification(settings)
        total = first + second
        logits = torch.randn(total, task.classes, generator=generator) * 20
        labels = torch.randint(0, task.classes, (total,), generator=generator)
        whole = statistics(task, logits, labels)
        parts = statistics(task, logits[:first], labels[:first]) + statistics(task, logits[first:], labels[first:])
        assert np.allclose(whole, parts)
        one = statistics(task, logits[:1], labels[:1])
        assert (one >= 0).all()
        assert (one <= 1).all()


def test_each_item_has_its_own_loss() -> None:
    task = Classification(THREE)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    batch = example_batch(task.spec, 7)
    losses = task.losses(model, batch, task.steps[0])
    assert losses.shape == (7,)
    items = [task.losses(model, batch.rows(slice(i, i + 1)), task.steps[0]) for i in range(7)]
    assert torch.allclose(losses, torch.cat(items))
    expected = torch.nn.functional.cross_entropy(model(batch["image"]), batch["label"])
    assert torch.allclose(losses.mean(), expected)


def test_nothing_gives_no_metrics_and_one_class_gives_no_auc() -> None:
    task = Classification(BINARY)
    assert task.metrics(np.zeros(task.statistics_size)) == {}
    only = task.metrics(statistics(task, torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)))
    assert "auc" not in only
    assert "recall_b" not in only


def test_perfect_confidence_has_no_calibration_error_and_stays_finite() -> None:
    task = Classification(BINARY)
    metrics = task.metrics(statistics(task, torch.tensor([[200.0, -200], [-200, 200]]), torch.tensor([0, 1])))
    assert metrics["calibration_error"] == pytest.approx(0, abs=1e-9)
    assert metrics["auc"] == 1.0


@pytest.mark.parametrize(("shape", "spatial"), [((8, 8), (5, 9)), ((8, 8), (8, 8)), ((4, 4, 4), (6, 7, 8))])
def test_without_transforms_images_are_brought_to_the_jobs_shape(
    shape: tuple[int, ...], spatial: tuple[int, ...]
) -> None:
    """Bit for bit what torch's interpolation gives, on -1 .. 1."""
    task = make_task(BINARY.model_copy(update={"shape": shape}))
    values = np.random.default_rng(0).random((1, *spatial), dtype=np.float32)
    prepared = task.chain.evaluated(task.chain.prefix(image(values, label=np.asarray(1))))
    fields = task.prepare(prepared)
    assert {name: tuple(field.shape) for name, field in task.spec.items()} == {"image": (1, *shape), "label": ()}
    assert fields["label"].item() == 1
    assert set(task.prepare(task.chain.prefix(image(values)))) == {"image"}
    own = torch.from_numpy(values)[None]
    if shape != spatial:
        mode, smooth = ("bilinear", True) if len(shape) == 2 else ("trilinear", False)
        own = torch.nn.functional.interpolate(own, size=shape, mode=mode, antialias=smooth, align_corners=False)
    assert torch.equal(fields["image"], own[0] * 2 - 1)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(JobError, match="shape"):
        make_task(BINARY.model_copy(update={"shape": ()}))
    for shape in ((3, 8, 8), (1, 8, 9), (1, 8, 8, 8)):
        with pytest.raises(DataError, match=r"Expected images of \[1, 8, 8\] after the transforms, got"):
            make_task(BINARY).prepare(image(np.zeros(shape, np.float32)))


def test_a_job_names_its_own_chain() -> None:
    task = make_task(BINARY.changed(transforms=({"kind": "window", "low": 0.0, "high": 2.0}, {"kind": "center-crop"})))
    assert task.chain.kinds == ("window", "center-crop")
    found = task.prepare(task.chain.prefix(image(np.full((1, 9, 9), 2.0, np.float32))))
    assert found["image"].unique().tolist() == [1.0]


def test_metrics_of_each_class_are_those_counted_by_hand() -> None:
    task = make_task(THREE)
    said, labels = torch.tensor([0, 0, 1, 1, 1, 0]), torch.tensor([0, 0, 0, 1, 1, 1])
    metrics = task.metrics(statistics(task, 5.0 * torch.nn.functional.one_hot(said, 3), labels))
    assert metrics["balanced_accuracy"] == pytest.approx(2 / 3)
    assert metrics["recall_a"] == pytest.approx(2 / 3)
    assert metrics["precision_b"] == pytest.approx(2 / 3)
    assert metrics["f1_b"] == pytest.approx(2 / 3)
    assert "recall_c" not in metrics  # no item has it
    assert "precision_c" not in metrics  # no item is given it
    assert metrics["auc_a"] == pytest.approx(2 / 3)
    assert "auc_c" not in metrics


def test_an_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(JobError, match=r"classification, .*multilabel"):
        make_task(BINARY.model_copy(update={"kind": "telepathy"}))
    assert "classification" in TASKS.names()
