"""What is explained about a segmentation and a detection, on networks whose answers are known."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.client.predicting.test_boxes import JOB as BOXES
from torch import nn

from salus.client.data.records import Sample
from salus.client.explaining.asking import Asked, NetworkAsking
from salus.client.explaining.methods import METHODS
from salus.client.explaining.reading import region_of
from salus.client.explaining.sanity import curves, hit, smoothed
from salus.client.explaining.scores import check_task
from salus.client.predicting.model import FinishedModel
from salus.common.errors import JobError
from salus.common.job import Job, parse_job
from salus.common.models import build_model
from salus.common.tasks import make_task

CPU = torch.device("cpu")
MASKS = """
[job]
name = "bright"
rounds = 1
[task]
kind = "segmentation"
model = "unet"
dataset = "pictures"
classes = ["other", "bright"]
shape = {shape}
widths = [2, 4]
{transforms}
[privacy]
noise = "none"
"""
SETTINGS: dict[str, dict[str, Any]] = {
    "lime": {"samples": 60, "penalty": 1e-4}, "kernel-shap": {"cells": 4, "samples": 80}, "occlusion": {"windows": 8},
}  # fmt: skip


class Bright(nn.Module):
    """A segmentation of what is bright as the second structure, by layers that Grad-CAM can look into."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        kind = nn.Conv2d if dims == 2 else nn.Conv3d
        self.inner, self.act, self.last = kind(1, 2, 3, padding=1), nn.ReLU(), kind(2, 3, 1)
        with torch.no_grad():
            for layer in (self.inner, self.last):
                layer.weight.zero_()
                assert layer.bias is not None
                layer.bias.zero_()
            self.inner.weight[0] = 1.0 / 3**dims
            self.last.weight[2, 0] = 20.0
            self.last.bias[0] = 5.0  # type: ignore[index]  # background, where the mean nearby is below a quarter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.act(self.inner(x)))
        return found


def masks(dims: int, transforms: str = "") -> Job:
    return parse_job(MASKS.format(shape=[16] * dims, transforms=transforms))


def blob(dims: int, side: int = 16, at: int = 4) -> Sample:
    """Return a picture or volume with a bright square or cube, and its mask under the data set's own names."""
    inside = np.zeros((side,) * dims, np.int16)
    inside[(slice(at, at + 5),) * dims] = 1
    rng = np.random.default_rng(0)
    values = (rng.random((1, *inside.shape)) * 0.1 + inside * 0.9).astype(np.float32)
    return Sample(values, targets={"mask": inside}, kinds={"mask": "mask"}, names={"mask": ("bright",)})


def asked(job: Job, network: nn.Module, sample: Sample) -> tuple[NetworkAsking, Asked]:
    asking = NetworkAsking(job, FinishedModel(network.eval(), "0" * 64, 1), CPU)
    return asking, asking(sample, "OTHER")


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", [name for name in METHODS.names() if name != "tree-shap"])
def test_every_method_finds_the_structure_of_a_segmentation(name: str, dims: int) -> None:
    job, sample = masks(dims, '[[task.transforms]]\nkind = "resize"\n'), blob(dims)
    asking, own = asked(job, Bright(dims), sample)
    assert own.question.answer == "bright"
    assert "'bright' where it was found" in own.question.what
    method = METHODS.get(name)(METHODS.get(name).Settings(**SETTINGS.get(name, {})))
    subject = asking.subject(own, own.inputs * 0.0, seed=0)
    assert method.unfit(subject) == ""
    found = asking.on_image(smoothed(method(subject).numpy()), own)
    region = region_of(sample, job.task, "bright")
    assert region is not None
    assert found.shape == region.shape
    assert hit(found, region)


def test_the_curves_of_a_good_map_are_better_than_random_ones() -> None:
    job = masks(2, '[[task.transforms]]\nkind = "resize"\n')
    asking, own = asked(job, Bright(2), blob(2))
    subject = asking.subject(own, own.inputs * 0.0, seed=0)
    good = curves(subject, own.inputs[0, 0].numpy())
    bad = curves(subject, -own.inputs[0, 0].numpy())
    assert good.deletion < good.random_deletion < bad.deletion
    assert good.insertion > good.random_insertion > bad.insertion
    assert good.deletion_curve[0] == pytest.approx(own.question.probability, abs=1e-5)


def test_of_a_larger_image_the_window_around_the_structure_is_explained_and_put_back() -> None:
    job, sample = masks(2, '[[task.transforms]]\nkind = "window"\nlow = 0.0\nhigh = 1.0\n'), blob(2, side=40, at=30)
    asking, own = asked(job, Bright(2), sample)
    assert own.inputs.shape == (1, 1, 16, 16)
    assert own.start == (24, 24)
    whole = asking.on_image(np.ones((16, 16), np.float32), own)
    assert whole.shape == (40, 40)
    assert np.array_equal(whole > 0, np.pad(np.ones((16, 16), bool), ((24, 0), (24, 0))))


def test_where_nothing_is_found_the_likeliest_pixels_are_explained() -> None:
    empty = Sample(np.zeros((1, 16, 16), np.float32))
    _, own = asked(masks(2, '[[task.transforms]]\nkind = "resize"\n'), Bright(2), empty)
    assert own.question.said == "nothing found"
    assert "likeliest" in own.question.what


@pytest.mark.parametrize("model", ["centernet", "retinanet", "ssd", "yolo", "cornernet", "faster-rcnn"])
def test_the_score_of_an_object_has_gradients_and_is_that_of_the_prediction(model: str) -> None:
    job = parse_job(
        BOXES.format(shape="[32, 32]", transforms="least_score = 0.05\nwidths = [4, 4, 8, 8]").replace(
            "centernet", model
        )
    )
    network = build_model(job.task, 0)
    sample = Sample(np.random.default_rng(0).random((1, 32, 32)).astype(np.float32))
    asking, own = asked(job, network, sample)
    assert "the object of class" in own.question.what
    subject = asking.subject(own, own.inputs * 0.0, seed=0)
    share = subject.score.share(subject.scores(subject.inputs))
    assert float(share) == pytest.approx(own.question.probability, abs=1e-4)
    inputs = subject.inputs.clone().requires_grad_(True)
    subject.score(inputs).sum().backward()
    assert inputs.grad is not None
    assert float(inputs.grad.abs().max()) > 0
    for name in ("grad-cam", "integrated-gradients"):
        method = METHODS.get(name)(METHODS.get(name).Settings(**({"steps": 4} if name != "grad-cam" else {})))
        assert method.unfit(subject) == ""
        assert torch.isfinite(method(subject)).all()


@pytest.mark.parametrize("kind", ["ordinal", "survival"])
def test_other_tasks_are_refused_by_name(kind: str) -> None:
    task = make_task(masks(2).task)
    object.__setattr__(task, "settings", task.settings.model_copy(update={"kind": kind}))
    with pytest.raises(JobError, match=kind):
        check_task(task)
