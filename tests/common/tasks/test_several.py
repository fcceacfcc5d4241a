"""Items made of several images: their settings, labels and fields."""

import numpy as np
import pytest
import torch

from salus.common.batch import Batch
from salus.common.errors import SalusError
from salus.common.examples import Example
from salus.common.job import parse_job
from salus.common.tasks import make_task
from salus.common.tasks.several import Several, several_of
from salus.common.transforms.checks import check_chain

JOB = """
[job]
name = "s"
rounds = 1
[task]
kind = "{kind}"
model = "{model}"
dataset = "d"
classes = ["a", "b"]
{more}
"""


def task(kind: str = "sequence", model: str = "gru", more: str = "shape = [4, 4]\nmost_images = 3") -> Several:
    made = make_task(parse_job(JOB.format(kind=kind, model=model, more=more)).task)
    assert isinstance(made, Several)
    return made


def test_an_item_is_padded_to_a_public_number_and_says_what_is_there() -> None:
    one, two = (Example({"image": np.full((1, 4, 4), value, np.float32)}) for value in (1, 2))
    fields = task().together([task().prepare(one), task().prepare(two)])
    assert fields["image"][:, 0, 0, 0].tolist() == [1, 2, 0]
    assert fields["image.there"].tolist() == [1, 1, 0]
    assert {name: tuple(field.shape) for name, field in fields.items()} == {
        name: field.shape for name, field in task().spec.items() if name != "label"
    }


def test_a_clip_is_an_item_by_itself_frames_first() -> None:
    clip = task(more='shape = [3, 4, 4]\nitem = "image"')
    values = np.arange(3, dtype=np.float32)[None, :, None, None] * np.ones((1, 3, 4, 4), np.float32)
    fields = clip.prepare(Example({"image": values}))
    assert fields["image"].shape == (3, 1, 4, 4)
    assert fields["image"][:, 0, 0, 0].tolist() == [0, 1, 2]
    assert fields["image.there"].tolist() == [1, 1, 1]
    assert several_of(clip) is None
    check_chain(clip)


def test_images_of_a_sequence_have_one_label_and_those_of_a_bag_any() -> None:
    labels = [np.array(0), np.array(1)]
    assert task().label_of(labels) is None
    assert task().label_of(labels[:1] * 2) == 0
    assert task("multi-instance", "bag").label_of(labels) == 1
    findings = task("multi-instance-findings", "bag")
    found = findings.label_of([np.array([1, 0]), np.array([0, 0])])
    assert np.array_equal(np.asarray(found), [1, 0])


@pytest.mark.parametrize(
    "more",
    [
        "shape = [4, 4]\nmost_images = 257",
        'shape = [4, 4]\nitem = "image"',
        'shape = [300, 4, 4]\nitem = "image"',
        "shape = [4096, 4096]\nmost_images = 5",
    ],
)
def test_sizes_are_bounded_before_anything_is_allocated(more: str) -> None:
    with pytest.raises(SalusError):
        task(more=more)


@pytest.mark.parametrize("kind", ["sequence", "multi-instance", "multi-instance-findings"])
def test_the_chain_is_that_of_one_image(kind: str) -> None:
    check_chain(task(kind, "bag" if kind != "sequence" else "gru"))


def test_metrics_are_those_of_items() -> None:
    made = task()
    label = torch.tensor([0, 1])
    rows = made.rows(torch.tensor([[2.0, -2.0], [-2.0, 2.0]]), Batch({"label": label}))
    assert made.metrics(rows.sum(dim=0).numpy())["auc"] == 1.0
