"""`salus process` from the command line: files, derived DICOM objects, refusals, the page."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from tests.cli import Result, salus
from tests.client.outgoing.series import series
from tests.client.predicting.worlds import write_pictures

from salus.common.errors import ConfigError
from salus.simulations.samples import write_samples


def processed(place: Path, *words: object) -> Result:
    return salus("process", "scans", *words, "--json", cwd=place)


def write_series(folder: Path, orientation: str = "axial", **more: object) -> list[object]:
    folder.mkdir(parents=True)
    slices = series(orientation, **more)  # type: ignore[arg-type]
    for number, dataset in enumerate(slices):
        dataset.save_as(folder / f"{(number * 3) % len(slices)}.dcm", enforce_file_format=True)
    return slices  # type: ignore[return-value]


@pytest.mark.parametrize("orientation", ["axial", "oblique", "sagittal"])
def test_a_lossless_series_comes_back_with_its_values_in_its_place(tmp_path: Path, orientation: str) -> None:
    slices = write_series(tmp_path / "scans" / "a", orientation, RescaleIntercept=-1024)
    result = processed(tmp_path, "--volumes", "--step", "compress", "--dicom")
    assert result.returncode == 0, result.stderr
    (item,) = json.loads(result.stdout)["items"]
    assert item["unchanged"]
    by_source = {d.SOPInstanceUID: d for d in slices}
    written = [dcmread(tmp_path / "processed" / name) for name in item["files"] if name.startswith("dicom/")]
    assert len(written) == len(slices)
    for one in written:
        source = by_source.pop(one.SourceImageSequence[0].ReferencedSOPInstanceUID)
        values = one.pixel_array.astype(float) * one.RescaleSlope + one.RescaleIntercept
        assert np.array_equal(values, source.pixel_array - 1024.0)
        for keyword in (
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "StudyInstanceUID",
            "PatientID",
            "SOPClassUID",
        ):
            assert one[keyword].value == source[keyword].value
        assert one.SOPInstanceUID not in {d.SOPInstanceUID for d in slices}
        assert one.SeriesInstanceUID != source.SeriesInstanceUID
        assert one.ImageType[0] == "DERIVED"
        assert "compress" in one.DerivationDescription
    assert len({one.SeriesInstanceUID for one in written}) == 1
    assert len({one.SOPInstanceUID for one in written}) == len(slices)
    nifti = nibabel.load(tmp_path / "processed" / item["files"][0])
    values = np.asarray(nifti.dataobj)
    for dataset in slices:
        corner = np.array([*dataset.ImagePositionPatient, 1.0]) * [-1, -1, 1, 1]
        index = tuple(np.rint(np.linalg.inv(nifti.affine) @ corner)[:3].astype(int))
        assert values[index] == dataset.pixel_array[0, 0] - 1024


def test_slices_of_one_identifier_get_no_derived_object(tmp_path: Path) -> None:
    """Which of them a derived object was made from could not be said."""
    slices = write_series(tmp_path / "scans")
    for number, dataset in enumerate(slices):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"  # type: ignore[attr-defined]
        dataset.save_as(tmp_path / "scans" / f"{(number * 3) % len(slices)}.dcm", enforce_file_format=True)  # type: ignore[attr-defined]
    result = processed(tmp_path, "--volumes", "--step", "median", "--dicom")
    (item,) = json.loads(result.stdout)["items"]
    assert item["left_out"] == "same-instance"
    assert [name.partition("/")[0] for name in item["files"]] == ["nifti"]


def test_a_second_run_gives_the_same_identifiers_and_another_step_others(tmp_path: Path) -> None:
    write_series(tmp_path / "scans")
    uids = []
    for out, step in (("a", "median"), ("b", "median"), ("c", "median:radius=2")):
        assert processed(tmp_path, "--volumes", "--step", step, "--dicom", "--out", out).returncode == 0
        uids.append({dcmread(path).SOPInstanceUID for path in (tmp_path / out / "dicom").iterdir()})
    assert uids[0] == uids[1]
    assert not uids[0] & uids[2]


def test_a_lossy_step_says_so_and_a_changed_grid_gets_no_dicom(tmp_path: Path) -> None:
    write_series(tmp_path / "scans")
    step = "compress:codec=jpeg-ls,max_error=3"
    (item,) = json.loads(processed(tmp_path, "--volumes", "--step", step, "--dicom").stdout)["items"]
    assert item["psnr_db"] > 30
    assert item["compression_ratio"] > 0
    for path in (tmp_path / "processed" / "dicom").iterdir():
        one = dcmread(path)
        assert (one.LossyImageCompression, one.LossyImageCompressionMethod) == ("01", "ISO_14495_1")
        assert sitk.GetArrayFromImage(sitk.ReadImage(path)).shape == (1, 6, 8)
    result = processed(tmp_path, "--volumes", "--step", "resize:size=[4,4,4]", "--dicom", "--out", "other")
    (item,) = json.loads(result.stdout)["items"]
    assert item["left_out"] == "other-grid"
    assert nibabel.load(tmp_path / "other" / item["files"][0]).shape == (4, 4, 4)


def test_pictures_and_volumes_are_processed_and_shown_before_and_after(tmp_path: Path) -> None:
    write_pictures(tmp_path / "scans", {"a.png": 10, "b/c.png": 250})
    assert processed(tmp_path, "--step", "gaussian", "--step", "sobel").returncode == 0
    page = (tmp_path / "processed" / "processed.html").read_text()
    assert page.count("data:image/png") == 6
    assert "as stored" in page
    assert str(tmp_path) not in page
    with (tmp_path / "processed" / "processed.csv").open(newline="") as file:
        assert [row["item"] for row in csv.DictReader(file)] == ["a.png", "b/c.png"]
    nifti = write_samples(tmp_path / "p", ("nifti",), patients=20, seed=0, side=8)["nifti"] / "images"
    result = salus("process", nifti, "--step", "median", "--out", "volumes", "--json", cwd=tmp_path)
    assert json.loads(result.stdout)["processed"] == 20
    first = sorted((tmp_path / "volumes" / "nifti").iterdir())[0]
    source, found = nibabel.load(nifti / first.name), nibabel.load(first)
    assert np.allclose(source.affine, found.affine)
    assert source.shape == found.shape


def test_a_damaged_file_is_refused_by_name_and_the_others_are_done(tmp_path: Path) -> None:
    write_series(tmp_path / "scans")
    (tmp_path / "scans" / "bad.dcm").write_bytes((tmp_path / "scans" / "0.dcm").read_bytes()[:-40])
    result = processed(tmp_path, "--step", "median")
    assert result.returncode == 20
    assert "bad.dcm" in result.stderr
    assert json.loads(result.stdout)["processed"] == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "steps in one way"),
        (("--step", "flip"), "training only"),
        (("--step", "median:rad=1"), "did you mean 'radius'"),
        (("--step", "median:radius=99"), "radius"),
        (("--step", "equalise"), "Expected the transform to be one of"),
        (("--step", "spacing:mm=[1.0,1.0]"), "could be processed"),
        (("--step", "median", "--out", "scans"), "not empty"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    write_pictures(tmp_path / "scans", {"a.png": 10})
    result = processed(tmp_path, *words)
    assert result.returncode != 0
    assert said in result.stderr.replace("\n", " ")


def test_steps_come_from_a_file_or_a_job(tmp_path: Path) -> None:
    write_pictures(tmp_path / "scans", {"a.png": 10})
    (tmp_path / "steps.toml").write_text('[[transforms]]\nkind = "median"\n[[transforms]]\nkind = "sobel"\n')
    assert processed(tmp_path, "--steps", "steps.toml", "--out", "one").returncode == 0
    job = '[job]\nname = "j"\nrounds = 1\n[task]\nkind = "classification"\nmodel = "cnn"\ndataset = "d"\nclasses = ["a", "b"]\n'
    job += 'shape = [8, 8]\n[[task.transforms]]\nkind = "resize"\nsize = [8, 8]\n[[task.transforms]]\nkind = "flip"\n'
    (tmp_path / "job.toml").write_text("format = 1\n" + job)
    result = processed(tmp_path, "--job", "job.toml", "--out", "two")
    assert result.returncode == 0, result.stderr
    assert nibabel.load(tmp_path / "two" / "nifti" / "a.nii.gz").shape == (8, 8, 1)
    (tmp_path / "steps.toml").write_text("[[steps]]\n")
    assert processed(tmp_path, "--steps", "steps.toml", "--out", "three").returncode == ConfigError.exit_code
