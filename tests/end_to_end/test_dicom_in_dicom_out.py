"""A PACS at both ends: series with segmentations are imported from a real Orthanc, a model is trained on them, and what it finds
in new patients goes back into Orthanc, where an independent reader finds it where it was predicted."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from tests.cli import salus
from tests.client.data.dicom_files import make
from tests.client.data.incoming.test_pacs import PLUGIN, free_port, real, running_orthanc
from tests.client.outgoing.dcmqi_reader import needs_dcmqi, read_report, read_segmentation

from salus.client.data.dicom.instances import instance_of
from salus.client.outgoing.coding import coded
from salus.client.outgoing.dicom_seg import write_segmentation
from salus.client.outgoing.producer import Producer

AUTH = ("salus", "orthanc-test")
PATIENTS, NEW = 8, 2
SIDE, SLICES, PIXEL_MM, SLICE_MM = 16, 12, 2.0, 3.0
ORIENTATIONS = ([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, -1, 0])  # the second scanner turns its images
JOB = """
[job]
name = "phantom-lesion-3d"
rounds = 4
[task]
kind = "segmentation"
model = "unet"
dataset = "abdomen"
classes = ["lesion"]
shape = [16, 16, 16]
modality = "CT"
widths = [4, 8]
loss = "dice"
[[task.codes]]
of = "lesion"
type = "SCT:52988006:Lesion"
[training]
local_epochs = 6
batch_size = 2
learning_rate = 2e-2
[aggregation]
protection = "none"
[privacy]
noise = "none"
"""


def series_of(patient: int) -> tuple[list[FileDataset], np.ndarray]:
    """Return a CT series with a bright ball, in a random order of files, and the ball on its slices."""
    rng = np.random.default_rng(patient)
    directions = ORIENTATIONS[patient % 2]
    normal = np.cross(directions[:3], directions[3:])
    z, y, x = np.mgrid[0:SLICES, 0:SIDE, 0:SIDE].astype(float)
    centre = rng.uniform((4, 5, 5), (8, 11, 11))
    ball = ((z - centre[0]) * SLICE_MM) ** 2 + ((y - centre[1]) * PIXEL_MM) ** 2 + (
        (x - centre[2]) * PIXEL_MM
    ) ** 2 < 8.0**2
    values = (rng.normal(0, 20, ball.shape) + 300 * ball).astype(np.int16)
    slices = [
        make(
            values[number], PatientID=f"P{patient}", PatientName=f"CANARY^P{patient}",
            StudyInstanceUID=f"1.2.826.0.1.7777.{patient}",
            SeriesInstanceUID=f"1.2.826.0.1.7777.{patient}.1", SOPInstanceUID=f"1.2.826.0.1.7777.{patient}.1.{number}",
            FrameOfReferenceUID=f"1.2.826.0.1.7777.{patient}.9", InstanceNumber=number + 1, SliceThickness=SLICE_MM,
            PixelSpacing=[PIXEL_MM, PIXEL_MM], ImageOrientationPatient=directions, RescaleSlope=1, RescaleIntercept=0,
            ImagePositionPatient=[float(v) for v in np.array([-15.0, 20.0, 7.0]) + normal * SLICE_MM * number],
        )
        for number in range(SLICES)
    ]  # fmt: skip
    return slices, ball


def saved(dataset: FileDataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[str]:
    """Start a real Orthanc with DICOMweb that holds the annotated series, and return its root."""
    port = free_port()
    settings = {
        "HttpPort": port, "DicomPort": free_port(), "StorageDirectory": str(tmp_path / "db"),
        "IndexDirectory": str(tmp_path / "db"),
        "RemoteAccessAllowed": False, "AuthenticationEnabled": True, "RegisteredUsers": dict([AUTH]), "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    root = f"http://127.0.0.1:{port}"
    with running_orthanc(tmp_path / "orthanc.json", root, AUTH):
        for patient in range(PATIENTS):
            slices, ball = series_of(patient)
            instances = [instance_of(dataset) for dataset in slices]
            reader = Producer("reader", "00" * 32, "1")
            write_segmentation(tmp_path / "seg.dcm", ball.astype(np.uint8), instances, coded(("lesion",)), reader)
            drawn = dcmread(tmp_path / "seg.dcm")
            drawn.Manufacturer = "A reader's workstation"  # what Salus itself has predicted is never imported
            for data in [*map(saved, slices), saved(drawn)]:
                assert httpx.post(f"{root}/instances", content=data, auth=AUTH).status_code == 200
        yield root


def segmentations(root: str) -> dict[str, bytes]:
    """Return the segmentations of new patients that Orthanc holds, by patient."""
    found = {}
    for name in httpx.get(f"{root}/series", auth=AUTH).json():
        series = httpx.get(f"{root}/series/{name}", auth=AUTH).json()
        patient = httpx.get(f"{root}/series/{name}/patient", auth=AUTH).json()["MainDicomTags"]["PatientID"]
        if series["MainDicomTags"]["Modality"] == "SEG" and int(patient[1:]) >= PATIENTS:
            found[patient] = httpx.get(f"{root}/instances/{series['Instances'][0]}/file", auth=AUTH).content
    return found


@real
@needs_dcmqi
@pytest.mark.slow
def test_dicom_in_dicom_out(orthanc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALUS_PACS_PASSWORD", AUTH[1])
    pacs = ["--pacs", f"{orthanc}/dicom-web", "--user", "salus"]
    (tmp_path / "job.toml").write_text(JOB)
    truth = {}
    for patient in range(PATIENTS, PATIENTS + NEW):
        slices, ball = series_of(patient)
        truth[f"P{patient}"] = float(ball.sum()) * PIXEL_MM**2 * SLICE_MM / 1000
        for number, dataset in enumerate(slices):
            path = tmp_path / "new" / f"P{patient}" / f"{(number * 5) % SLICES}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(saved(dataset))
    for words in (
        ("client", "init", "site", "--name", "St. Mary"),
        ("dataset", "import", "site", "abdomen", *pacs, "--volumes", "--structures", "lesion", "--yes"),
        ("simulate", "job.toml", "--data", "site/images/abdomen", "--sites", 2, "--volumes", "--output", "trained"),
    ):
        result = salus(*words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    (model,) = (tmp_path / "trained").rglob("round-00004.safetensors")
    result = salus("predict", model, "new", "--job", "job.toml", "--seg", "--sr", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    own = ("--site", "site", "--dataset", "abdomen", "--seg", "--out", "own")
    for words in (("predict", model, *own), ("dataset", "evaluate", "site", "abdomen", model)):
        result = salus(*words, "--job", "job.toml", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "own" / "seg").glob("*.dcm"))) == PATIENTS
    assert b"CANARY" not in b"".join(path.read_bytes() for path in (tmp_path / "site").rglob("*") if path.is_file())
    result = salus("send", "predictions", *pacs, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    with (tmp_path / "predictions" / "predictions.csv").open(newline="") as file:
        rows = {Path(row["item"]).parts[0]: row for row in csv.DictReader(file)}
    kept = segmentations(orthanc)
    assert set(kept) == set(rows) == set(truth)
    for patient, data in kept.items():
        (tmp_path / f"{patient}.dcm").write_bytes(data)
        found, place, described = read_segmentation(tmp_path / f"{patient}.dcm", tmp_path / f"{patient}-read")
        predicted = nibabel.load(tmp_path / "predictions" / rows[patient]["masks"])
        points = np.argwhere(np.asarray(predicted.dataobj))
        there = (np.linalg.inv(place) @ predicted.affine @ np.c_[points, np.ones(len(points))].T)[:3].T
        assert there == pytest.approx(there.round(), abs=0.02)
        assert (found[tuple(there.round().astype(int).T)] == 1).all()
        assert np.count_nonzero(found) == len(points)  # to the voxel, and nowhere else
        volume_ml = np.count_nonzero(found) * abs(np.linalg.det(place[:3, :3])) / 1000
        assert volume_ml == pytest.approx(float(rows[patient]["lesion_ml"]), rel=1e-4)
        assert volume_ml == pytest.approx(truth[patient], rel=0.5)  # it has learnt what the lesion is
        assert described[0]["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "52988006"
        report = read_report(tmp_path / "predictions" / rows[patient]["sr"], tmp_path / f"{patient}.json")
        assert float(report["Measurements"][0]["measurementItems"][0]["value"]) == pytest.approx(volume_ml, rel=1e-4)
