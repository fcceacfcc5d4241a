"""Masks lie where the image lies, whatever the scanner, the file and the job's transforms do to it.

The network is a threshold, so that the right mask is known for every image.
"""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import dcmread
from tests.cli import Result, salus
from tests.client.outgoing.series import COLUMNS, ORIENTATIONS, ROWS, position, series
from torch import nn

from salus.client.data.records import Sample
from salus.client.predicting import model as model_module
from salus.client.predicting.answering import Answering
from salus.client.predicting.model import FinishedModel
from salus.common.job import Job, parse_job
from salus.common.tasks import make_task

JOB = """
[job]
name = "threshold"
rounds = 1
[task]
kind = "segmentation"
model = "unet"
dataset = "scans"
classes = [{classes}]
shape = [{shape}]
{task}
[privacy]
noise = "none"
"""


def text(shape: str = "5, 6, 8", classes: str = '"bright"', task: str = "", transforms: str = "") -> str:
    return JOB.format(shape=shape, classes=classes, task=task) + transforms


class Threshold(nn.Module):
    """Says background below zero and the only structure above; zero is the middle of the grey scale."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-50 * x, 50 * x], dim=1)


class Layers(nn.Module):
    """Says that the first structure is above zero and the second one above a half, which overlap."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([50 * x, 50 * (x - 0.5)], dim=1)


def answered(
    job: Job, values: np.ndarray, network: nn.Module | None = None, affine: np.ndarray | None = None
) -> np.ndarray:
    answering = Answering(make_task(job.task), network or Threshold(), torch.device("cpu"))
    spacing = () if affine is None else tuple(float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    mask = answering(Sample(values.astype(np.float32), spacing, affine=affine), "OTHER").mask
    assert mask is not None
    return mask


AFFINE = np.array([[0, 0, 0.9, 5], [0, 0.7, 0, 6], [3.0, 0, 0, 7], [0, 0, 0, 1]])


def blocks(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return an image with a few bright boxes, well inside."""
    rng = np.random.default_rng(seed)
    values = np.full(shape, 0.1)
    for _ in range(3):
        low = [int(rng.integers(side // 5, side // 2)) for side in shape]
        values[tuple(slice(start, start + side // 4 + 1) for start, side in zip(low, shape, strict=True))] = 0.9
    return values[None]


def test_without_any_change_the_mask_is_exact() -> None:
    values = blocks((10, 12, 16))
    assert (answered(parse_job(text("10, 12, 16")), values, affine=AFFINE) == (values[0] > 0.5)).all()


CHAINS = {
    "resize": '[[task.transforms]]\nkind = "resize"\n',
    "spacing": '[[task.transforms]]\nkind = "spacing"\nmm = [1.5, 1.4, 1.8]\n[[task.transforms]]\nkind = "center-crop"\n',
    "foreground": '[[task.transforms]]\nkind = "crop-foreground"\nabove = 0.05\n[[task.transforms]]\nkind = "resize"\n',
    "pad": '[[task.transforms]]\nkind = "pad"\nsize = [24, 32, 36]\n[[task.transforms]]\nkind = "resize"\n',
}


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_transforms_of_the_grid_are_undone(name: str) -> None:
    rescale = '[[task.transforms]]\nkind = "rescale"\n'
    job = parse_job(text("20, 24, 32", transforms=CHAINS[name] + rescale))
    values = blocks((18, 26, 30), seed=1)
    mask, truth = answered(job, values, affine=AFFINE), values[0] > 0.5
    dice = 2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth))
    assert mask.shape == truth.shape
    assert dice > 0.85
    shifted = np.roll(truth, 2, axis=1)
    assert dice > 2 * np.count_nonzero(mask & shifted) / (np.count_nonzero(mask) + np.count_nonzero(shifted)) + 0.1


def test_overlapping_structures_and_planes() -> None:
    values = np.linspace(0, 1, 24).reshape(1, 4, 6)
    job = parse_job(text("4, 6", '"low", "high"', "multi_label = true"))
    layers = answered(job, values, Layers())
    assert (layers == np.stack([values[0] > 0.5, values[0] > 0.75])).all()
    two = parse_job(text("4, 6"))
    assert (answered(two, values) == (values[0] > 0.5)).all()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a job whose model is the threshold."""
    (tmp_path / "job.toml").write_text(text(task='modality = "CT"'))
    monkeypatch.setattr(model_module, "load_model", lambda path, job: FinishedModel(Threshold(), "ab" * 32, 0))
    return tmp_path


def predicted(place: Path, *words: object) -> Result:
    return salus("predict", "model", "scans", "--job", "job.toml", "--json", *words, cwd=place)


def write_series(folder: Path, orientation: str = "axial", **more: object) -> list[object]:
    folder.mkdir(parents=True, exist_ok=True)
    slices = series(orientation, **more)  # type: ignore[arg-type]
    for number, dataset in enumerate(slices):
        dataset.save_as(folder / f"{(number * 3) % len(slices)}.dcm", enforce_file_format=True)
    return slices  # type: ignore[return-value]


@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
def test_a_series_gets_its_mask_in_every_form_where_it_lies(place: Path, orientation: str) -> None:
    depth = {"coronal": "6, 5, 8", "sagittal": "6, 8, 5"}.get(orientation, "5, 6, 8")
    (place / "job.toml").write_text(text(depth, task='modality = "CT"'))
    slices = write_series(place / "scans" / "a", orientation)
    result = predicted(place, "--seg", "--sr")
    assert result.returncode == 0, result.stderr
    (item,) = json.loads(result.stdout)["items"]
    segmentation = dcmread(place / "predictions" / item["files"]["seg"])
    mask = nibabel.load(place / "predictions" / item["files"]["masks"])
    values, to_index = np.asarray(mask.dataobj), np.linalg.inv(mask.affine)
    middle = (0 + 457) / 2  # of the smallest and the largest pixel of the series
    found = {}
    for frame, group in zip(segmentation.pixel_array, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        found[source.ReferencedSOPInstanceUID] = frame
    bright = 0
    for dataset in slices:
        truth = dataset.pixel_array > middle  # type: ignore[attr-defined]
        bright += int(truth.sum())
        assert (found.get(dataset.SOPInstanceUID, np.zeros_like(truth)) == truth).all()  # type: ignore[attr-defined]
        for row, column in ((0, 0), (ROWS - 1, COLUMNS - 1), (2, 5)):
            lps = position(dataset, row, column)  # type: ignore[arg-type]
            index = (to_index @ [-lps[0], -lps[1], lps[2], 1])[:3].round().astype(int)
            assert values[tuple(index)] == truth[row, column]
    assert item["volumes"]["bright"] == pytest.approx(bright * 0.7 * 0.9 * 3.0 / 1000)
    assert (place / "predictions" / item["files"]["overlays"]).read_bytes().startswith(b"\x89PNG")
    assert "data:image/png" in (place / "predictions" / "predictions.html").read_text()


def test_series_that_do_not_fit_are_refused_by_name_and_cost_only_themselves(place: Path) -> None:
    (place / "job.toml").write_text(text(task='modality = "CT"\nplane = "axial"'))
    write_series(place / "scans" / "good")
    for number, (name, more) in enumerate(
        {
            "missing": {"places": (0, 3, 9, 12, 15)},
            "uneven": {"places": (0, 3, 6, 9, 12.1)},
            "mr": {"Modality": "MR"},
            "side": {"orientation": "sagittal"},
            "turned": {"orientation": "turned"},
        }.items(),
        start=2,
    ):
        more |= {"SeriesInstanceUID": f"1.2.3.{number}0"}  # type: ignore[operator]
        if name == "turned":
            ORIENTATIONS["turned"] = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0)
        try:
            write_series(place / "scans" / name, **more)  # type: ignore[arg-type]
        finally:
            ORIENTATIONS.pop("turned", None)
    (place / "scans" / "report.dcm").write_bytes(b"\0" * 128 + b"DICM")
    result = predicted(place)
    assert result.returncode == 20
    summary = json.loads(result.stdout)
    assert [one["item"].split("/")[0] for one in summary["items"]] == ["good"]
    refused = {one["item"].split("/")[0]: one for one in summary["refused"]}
    assert {name: one["reason"] for name, one in refused.items() if name != "report.dcm"} == {
        "missing": "missing-slice",
        "uneven": "uneven-spacing",
        "mr": "wrong-modality",
        "side": "wrong-plane",
        "turned": "oblique",
    }
    assert refused["missing"]["remedy"] == "Send the whole series again."
    assert "37 degrees" in refused["turned"]["detail"]
    assert predicted(place, "--most-oblique", "40", "--out", "other").returncode == 20
    assert "oblique" not in (place / "other" / "predictions.json").read_text()


def test_a_nifti_mask_has_the_axes_of_its_file_and_pictures_get_pictures(place: Path) -> None:
    (place / "scans").mkdir()
    values = np.arange(5 * 6 * 8, dtype=np.int16).reshape(8, 6, 5)
    for axes in ("RAS", "PIL"):
        image = nibabel.Nifti1Image(values, np.diag([0.9, 0.7, 3.0, 1.0]))
        order = nibabel.orientations.axcodes2ornt(tuple(axes))
        nibabel.save(image.as_reoriented(order), place / "scans" / f"{axes}.nii.gz")
    result = predicted(place)
    assert result.returncode == 0, result.stderr
    for axes in ("RAS", "PIL"):
        source, mask = (nibabel.load(place / folder / f"{axes}.nii.gz") for folder in ("scans", "predictions/masks"))
        assert mask.affine == pytest.approx(source.affine, abs=1e-4)
        assert (np.asarray(mask.dataobj) == (np.asarray(source.dataobj) > 119.5)).all()
    (place / "job.toml").write_text(text("6, 8"))
    (place / "pictures").mkdir()
    grey = np.linspace(0, 255, 48).reshape(6, 8).astype(np.uint8)
    Image.fromarray(grey).save(place / "pictures" / "a.png")
    result = salus("predict", "model", "pictures", "--job", "job.toml", "--out", "flat", "--json", cwd=place)
    assert result.returncode == 0, result.stderr
    assert (np.asarray(Image.open(place / "flat" / "masks" / "a.png")) == (grey > 127)).all()
    assert json.loads(result.stdout)["items"][0]["unit"] == "pixels"


def test_a_dicom_object_that_cannot_be_written_is_explained_at_once(place: Path) -> None:
    (place / "scans").mkdir()
    values = np.random.default_rng(0).random((8, 6, 5)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), place / "scans" / "a.nii.gz")
    (place / "job.toml").write_text(text())
    result = salus("predict", "model", "scans", "--job", "job.toml", "--seg", cwd=place)
    assert "--seg wrote nothing for 1 of 1 images (not-dicom)" in result.stdout, result.stdout + result.stderr
    assert (
        "wrote nothing"
        not in salus("predict", "model", "scans", "--job", "job.toml", "--out", "other", cwd=place).stdout
    )
