"""`salus predict` from the command line: classes of pictures, DICOM and tables, refusals, continued runs."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from tests.cli import Result, salus
from tests.client.data.dicom_files import write
from tests.client.predicting.worlds import write_job, write_model, write_pictures


def predicted(folder: Path, *words: object) -> Result:
    return salus("predict", "model.safetensors", *words, "--job", "job.toml", cwd=folder)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with a job and its model."""
    write_model(tmp_path / "model.safetensors", write_job(tmp_path / "job.toml"))
    return tmp_path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_pictures_without_labels_get_a_class_each(place: Path) -> None:
    write_pictures(place / "scans", {"a.png": 10, "b/c.png": 250})
    result = predicted(place, "scans", "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert {one["item"]: one["label"] for one in summary["items"]} == {"a.png": "dark", "b/c.png": "bright"}
    found = {row["item"]: row for row in rows(place / "predictions" / "predictions.csv")}
    assert found["b/c.png"]["label"] == "bright"
    assert float(found["a.png"]["probability_dark"]) + float(found["a.png"]["probability_bright"]) == pytest.approx(1)
    assert (place / "predictions" / "predictions.json").read_text() == result.stdout
    page = (place / "predictions" / "predictions.html").read_text()
    assert "All results" in page
    assert str(place) not in page + result.stdout


def test_a_model_of_image_features_predicts_on_pictures(tmp_path: Path) -> None:
    features = """columns = [{name = "mean", centre = 0.5, scale = 0.2}]
transforms = [{kind = "radiomics", intensity_low = 0.0, intensity_high = 1.0}]"""
    job = write_job(tmp_path / "job.toml", shape="", task=features, kind="svm")
    write_model(tmp_path / "model.safetensors", job)
    write_pictures(tmp_path / "scans", {"a.png": 10, "c.png": 250})
    result = predicted(tmp_path, "scans", "--json")
    assert result.returncode == 0, result.stderr
    found = {one["item"]: one["label"] for one in json.loads(result.stdout)["items"]}
    assert found == {"a.png": "dark", "c.png": "bright"}


def test_a_registered_data_set_and_a_folder_agree(place: Path) -> None:
    write_pictures(place / "scans", {"a.png": 10, "b.png": 250})
    (place / "scans" / "labels.csv").write_text("file,label,PatientID\na.png,dark,1\nb.png,bright,2\n")
    for words in (("client", "init", "site", "--name", "S"), ("dataset", "add", "site", "toy", "scans", "--yes")):
        assert salus(*words, cwd=place).returncode == 0
    first = predicted(place, "scans", "--out", "one")
    second = predicted(place, "--site", "site", "--dataset", "toy", "--out", "two")
    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    assert rows(place / "one" / "predictions.csv") == rows(place / "two" / "predictions.csv")


def test_dicom_is_refused_by_name_where_it_does_not_fit_and_reported_where_it_does(place: Path) -> None:
    write_model(place / "model.safetensors", write_job(place / "job.toml", task='modality = "DX"'))
    dx = "1.2.840.10008.5.1.4.1.1.1.1"
    bright = np.full((8, 8), 250, np.uint8)
    bright[0, 0] = 0  # without a window grey values are stretched
    write(place / "scans" / "a.dcm", bright, Modality="DX", SOPClassUID=dx, PatientID=None)
    write(place / "scans" / "b.dcm", bright, Modality="CT")
    write(place / "scans" / "c.dcm", bright.repeat(3).reshape(8, 8, 3), Modality="DX", SamplesPerPixel=3, Rows=8, Columns=8,
          PhotometricInterpretation="RGB", PlanarConfiguration=0, NumberOfFrames=None)  # fmt: skip
    (place / "scans" / "broken.dcm").write_bytes((place / "scans" / "a.dcm").read_bytes()[:-30])
    result = predicted(place, "scans", "--sr", "--json")
    assert result.returncode == 20
    assert "3 of 4 images were refused" in result.stderr
    summary = json.loads(result.stdout)
    refused = {one["item"]: one for one in summary["refused"]}
    assert refused["b.dcm"]["detail"] == "it is CT, the job is for DX"
    assert refused["b.dcm"]["remedy"] == "Give images of the modality that the job names, or use another model."
    assert refused["c.dcm"]["reason"] == "does-not-fit-job"
    assert "broken.dcm" in refused
    (item,) = summary["items"]
    assert item["label"] == "bright"
    report = dcmread(place / "predictions" / item["files"]["sr"])
    assert report.Modality == "SR"
    assert report.StudyInstanceUID == "1.2.3"


def test_a_table_without_labels(place: Path) -> None:
    job = write_job(
        place / "job.toml",
        shape="",
        task='[[task.columns]]\nname = "age"\ncentre = 50.0\nscale = 10.0\n[[task.columns]]\nname = "bp"\n',
    )
    text = (
        (place / "job.toml")
        .read_text()
        .replace('kind = "classification"', 'kind = "tabular"')
        .replace("shape = []\n", "")
    )
    (place / "job.toml").write_text(text)
    from salus.common.job import load_job

    job = load_job(place / "job.toml")
    write_model(place / "model.safetensors", job)
    (place / "people.csv").write_text("bp,age,name\n1,70,3\n-1,20,3\n,50,3\n")
    result = predicted(place, "people.csv", "--json")
    assert result.returncode == 0, result.stderr
    assert [one["label"] for one in json.loads(result.stdout)["items"]] == ["bright", "dark", "dark"]


def test_a_run_is_continued_and_never_mixed_with_another(place: Path) -> None:
    write_pictures(place / "scans", {"a.png": 10, "b.png": 250})
    assert predicted(place, "scans").returncode == 0
    first = (place / "predictions" / "progress.jsonl").read_text()
    (place / "predictions" / "progress.jsonl").write_text(first.splitlines()[0] + "\n")
    again = predicted(place, "scans")
    assert again.returncode == 0
    assert "of these in an earlier, stopped run  1" in again.stdout.replace("│", "").replace("┃", "")
    assert (place / "predictions" / "progress.jsonl").read_text() == first
    other = predicted(place, "scans", "--sr")
    assert other.returncode == 11
    assert "another" in other.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("absent",), 20, "found nothing"),
        ((), 11, "either a folder"),
        (("scans", "--dataset", "toy"), 11, "either a folder"),
        (("--dataset", "toy"), 11, "either a folder"),
        (("scans", "--device", "tpu"), 11, "choice of a device"),
        (("empty",), 20, "Cannot determine the kind of data"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    place: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    write_pictures(place / "scans", {"a.png": 10})
    (place / "empty").mkdir()
    result = predicted(place, *words)
    assert (result.returncode, message in result.stderr) == (code, True), result.stderr
    assert not (place / "predictions").exists()


def test_nothing_usable_is_an_error_with_the_first_reason(place: Path) -> None:
    (place / "scans").mkdir()
    (place / "scans" / "a.png").write_bytes(b"no picture")
    result = predicted(place, "scans")
    assert result.returncode == 20
    assert "No image could be predicted on (damaged)" in result.stderr
