"""Single objects and tracks come back on the image's own grid, as masks, as MOTChallenge's text and as counts.

The network knows the answer, so every number is known.
"""

import csv
import io
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli import Result, salus
from torch import nn

from salus.client.predicting import model as model_module
from salus.client.predicting.model import FinishedModel
from salus.client.predicting.outputs import objects_of
from salus.common.tasks.centres import wanted_maps

JOB = """
[job]
name = "objects"
rounds = 1
[task]
kind = "{kind}"
model = "centres"
dataset = "cells"
classes = ["cell"]
shape = {shape}
most_objects = 6
[privacy]
noise = "none"
"""


class Knowing(nn.Module):
    """Says the maps of objects that are known beforehand, whatever the image."""

    def __init__(self, numbers: np.ndarray) -> None:
        super().__init__()
        maps = wanted_maps(torch.from_numpy(numbers.astype(np.int64)), int(numbers.max()), torch.zeros(()))
        self.maps = torch.cat([torch.logit(maps[:, :2].clamp(0.01, 0.99)), maps[:, 2:]], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maps


def predicted(place: Path, kind: str, numbers: np.ndarray, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    shape = list(numbers.shape if kind == "tracking" else numbers.shape[1:])
    (place / "job.toml").write_text(JOB.format(kind=kind, shape=shape))
    network = Knowing(numbers)
    monkeypatch.setattr(model_module, "load_model", lambda path, job: FinishedModel(network, "ab" * 32, 0))
    return salus("predict", "model", "scans", "--job", "job.toml", "--json", *words, cwd=place)


def touching() -> np.ndarray:
    numbers = np.zeros((1, 24, 24), np.uint8)
    numbers[0, 4:14, 3:11], numbers[0, 6:16, 11:20] = 1, 2
    return numbers


def moving() -> np.ndarray:
    """Return three squares that cross in the middle; the last one drawn hides the others."""
    numbers = np.zeros((16, 48, 48), np.uint8)
    starts, speeds = [(20, 4), (4, 20), (4, 4)], [(0, 2), (2, 0), (2, 2)]
    for frame in range(len(numbers)):
        for number, (start, speed) in enumerate(zip(starts, speeds, strict=True), start=1):
            top, left = (a + b * frame for a, b in zip(start, speed, strict=True))
            numbers[frame, top : top + 8, left : left + 8] = number
    return numbers


def write_clip(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), np.eye(4))  # type: ignore[no-untyped-call]
    nibabel.save(image, path)


def test_touching_objects_of_a_picture_of_another_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = touching()
    (tmp_path / "scans").mkdir()
    Image.fromarray(np.kron(numbers[0] * 100, np.ones((2, 2), np.uint8))).save(tmp_path / "scans" / "a.png")
    result = predicted(tmp_path, "instances", numbers, monkeypatch)
    assert result.returncode == 0, result.stderr
    out = tmp_path / "predictions"
    mask = np.asarray(Image.open(out / "masks" / "a.png"))
    wide = np.kron(numbers[0], np.ones((2, 2), np.uint8))
    pairs = {(int(a), int(b)) for a, b in zip(mask.ravel(), wide.ravel(), strict=True)}
    assert len(pairs) == 3  # background and two objects, pixel by pixel
    rows = (out / "objects" / "a.csv").read_text().splitlines()
    boxes = sorted(tuple(map(int, row.split(",")[2:6])) for row in rows)
    assert boxes == [(7, 9, 16, 20), (23, 13, 18, 20)]  # left and top from 1, width, height
    [row] = csv.DictReader(io.StringIO((out / "predictions.csv").read_text()))
    assert float(row["count"]) == 2
    assert "2 found" in (out / "predictions.html").read_text()


def test_crossing_objects_of_a_clip_keep_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = moving()
    visible = [[int((frame == number).sum()) for frame in numbers] for number in (1, 2, 3)]
    assert min(visible[0]) == min(visible[1]) == 0  # hidden while all three cross
    values = np.array([0, 300, 600, 900], np.int16)[numbers]
    write_clip(tmp_path / "scans" / "clip.nii.gz", values)
    result = predicted(tmp_path, "tracking", numbers, monkeypatch)
    assert result.returncode == 0, result.stderr
    out = tmp_path / "predictions"
    mask = np.asarray(nibabel.load(out / "masks" / "clip.nii.gz").dataobj).transpose(2, 1, 0)  # type: ignore[attr-defined]
    for number in (1, 2, 3):
        first, last = (np.unique(mask[frame][numbers[frame] == number]).tolist() for frame in (0, 15))
        assert first == last
        assert len(first) == 1
    rows = [row.split(",") for row in (out / "objects" / "clip.csv").read_text().splitlines()]
    assert {int(row[0]) for row in rows} == set(range(1, 17))
    assert (out / "overlays" / "clip.png").exists()


def test_reports_of_single_objects_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = predicted(tmp_path, "instances", touching(), monkeypatch, "--sr")
    assert result.returncode != 0
    assert "single objects" in " ".join(result.stderr.split())


def test_boxes_of_a_mask_are_those_by_hand() -> None:
    mask = np.zeros((2, 5, 6), np.uint8)
    mask[0, 1:3, 2:6], mask[1, 4, 0] = 3, 1
    assert objects_of(mask) == "1,3,3,2,4,2,1,-1,-1,-1\n2,1,1,5,1,1,1,-1,-1,-1\n"
