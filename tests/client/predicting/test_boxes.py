"""Boxes lie where the object lies, whatever the job's transforms do to the image.

The network finds the bright block of a picture, so that the right box is known.
"""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli import salus
from torch import nn

from salus.client.data.records import Sample
from salus.client.predicting import model as model_module
from salus.client.predicting.answering import Answering
from salus.client.predicting.model import FinishedModel
from salus.client.predicting.outputs import _spacing, box_columns, box_rows
from salus.common.job import parse_job
from salus.common.models.detectors.base import centres_of
from salus.common.tasks import make_task

JOB = """
[job]
name = "blocks"
rounds = 1
[task]
kind = "detection"
model = "centernet"
dataset = "pictures"
classes = ["dark", "block"]
shape = {shape}
{transforms}
[privacy]
noise = "none"
"""
SURE = 9.0
CHAINS = {
    "resize": ("[32, 32]", '[[task.transforms]]\nkind = "resize"\n'),
    "pad": ("[64, 112]", '[[task.transforms]]\nkind = "pad"\n'),
    "center-crop": ("[48, 80]", '[[task.transforms]]\nkind = "center-crop"\n'),
}


class FindsTheBlock(nn.Module):
    """Answers as CenterNet: a sure object of the second class at the centre of what is bright, nothing elsewhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dims, places = x.dim() - 2, centres_of(x.shape[2:], 2) / 4
        outputs = torch.zeros(1, len(places), 2 + 2 * dims)
        outputs[..., :2] = -SURE
        bright = (x[0, 0] > 0.5).nonzero()
        if len(bright):
            low, high = bright.amin(dim=0) / 4, (bright.amax(dim=0) + 1) / 4
            offset = (low + high) / 2 - places
            place = int(offset.abs().amax(dim=1).argmin())
            outputs[0, place, 1] = SURE
            outputs[0, place, 2:] = torch.cat([offset[place], (high - low).log()])
        return outputs


def text(name: str) -> str:
    shape, transforms = CHAINS[name]
    return JOB.format(shape=shape, transforms=transforms)


def picture(*, block: bool = True) -> np.ndarray:
    values = np.zeros((64, 96), np.uint8)
    if block:
        values[16:32, 24:60] = 255
    return values


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_a_box_comes_back_to_the_image_as_it_is_stored(name: str) -> None:
    answering = Answering(make_task(parse_job(text(name)).task), FindsTheBlock(), torch.device("cpu"))
    answer = answering(Sample(picture()[None].astype(np.float32) / 255), "OTHER")
    assert answer.boxes is not None
    assert answer.boxes.shape == (1, 6)
    assert np.allclose(answer.boxes[0, :5], [16, 24, 32, 60, 2], atol=0.01)
    assert answer.boxes[0, 5] > 0.99
    assert answer.values == {"count": 1.0}


def test_an_image_without_objects_has_a_count_of_none() -> None:
    answering = Answering(make_task(parse_job(text("resize")).task), FindsTheBlock(), torch.device("cpu"))
    answer = answering(Sample(np.zeros((1, 64, 96), np.float32)), "OTHER")
    assert answer.boxes is not None
    assert answer.boxes.shape == (0, 6)
    assert answer.values == {"count": 0.0}


def test_a_box_of_a_volume_has_three_axes() -> None:
    columns = box_columns(3)
    assert columns == ["class", "score", "z_low", "y_low", "x_low", "z_high", "y_high", "x_high"]
    row = box_rows(np.array([[1, 2, 3, 4, 5, 6, 2, 0.5]]), 3, ["a", "b"])[0]
    assert list(row.values()) == ["b", 0.5, 1, 2, 3, 4, 5, 6]


def test_the_sides_of_a_box_are_in_millimetres_where_the_spacing_is_known() -> None:
    box = np.array([[1, 2, 5, 6, 1, 0.5]])
    row = box_rows(box, 2, ["a"], (0.5, 2.0))[0]
    assert (row["y_mm"], row["x_mm"]) == (2.0, 8.0)
    assert list(row) == box_columns(2, mm=True)
    assert "y_mm" not in box_rows(box, 2, ["a"])[0]
    plain, known = Sample(np.zeros((1, 8, 8), np.float32)), np.diag([3.0, 0.5, 2.0, 1.0])
    assert _spacing(plain) == ()
    assert _spacing(replace(plain, affine=known)) == (0.5, 2.0)
    assert _spacing(replace(plain, spacing_mm=(0.25, 0.25))) == (0.25, 0.25)


def test_a_run_writes_tables_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "load_model", lambda path, job: FinishedModel(FindsTheBlock(), "ab" * 32, 0))
    (tmp_path / "job.toml").write_text(text("resize"))
    (tmp_path / "pictures").mkdir()
    Image.fromarray(picture()).save(tmp_path / "pictures" / "one.png")
    Image.fromarray(picture(block=False)).save(tmp_path / "pictures" / "none.png")
    result = salus("predict", "model", "pictures", "--job", "job.toml", "--out", "found", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    items = {one["item"]: one for one in json.loads(result.stdout)["items"]}
    assert {name: one["values"] for name, one in items.items()} == {
        "one.png": {"count": 1.0},
        "none.png": {"count": 0.0},
    }
    with (tmp_path / "found" / items["one.png"]["files"]["boxes"]).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], *(float(row[name]) for name in box_columns(2)[2:])) for row in rows] == [
        ("block", 16.0, 24.0, 32.0, 60.0)
    ]
    drawn = np.asarray(Image.open(tmp_path / "found" / items["one.png"]["files"]["overlays"]))
    assert (drawn.max(axis=2) > drawn.min(axis=2)).any(), "a box is drawn in colour"
    empty = np.asarray(Image.open(tmp_path / "found" / items["none.png"]["files"]["overlays"]))
    assert (empty.max(axis=2) == empty.min(axis=2)).all()
