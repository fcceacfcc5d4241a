"""A real PACS on both sides of a node: studies leave Orthanc by C-STORE, and what the model says of them comes back into it."""

import csv
import json
import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import highdicom as hd
import httpx
import nibabel
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from tests.cli import salus
from tests.client.data.incoming.test_pacs import free_port, real, running_orthanc
from tests.client.outgoing.dcmqi_reader import needs_dcmqi, read_report, read_segmentation
from tests.client.serving.held import HeldNode
from tests.client.serving.worlds import pictures
from tests.end_to_end.test_dicom_in_dicom_out import JOB, PIXEL_MM, SLICE_MM, saved, series_of
from tests.packages import export
from tests.processes import wait_until

from salus.client.serving.studies import FILE, Studies
from salus.common.clock import SystemClock

AUTH = ("salus", "orthanc-test")
Objects = dict[str, list[FileDataset]]


@dataclass(frozen=True)
class Orthanc:
    root: str
    port: int
    node: int

    def put(self, files: list[bytes]) -> str:
        """Store files and return Orthanc's name of their study."""
        answers = [httpx.post(f"{self.root}/instances", content=data, auth=AUTH).json() for data in files]
        return str(answers[0]["ParentStudy"])

    def send(self, study: str) -> None:
        """Send a study to the node."""
        answer = httpx.post(f"{self.root}/modalities/salus/store", auth=AUTH, json=study, timeout=900.0)
        assert answer.status_code == 200, answer.text

    def results(self, study_uid: str) -> Objects:
        """Return the objects of a study that are no source images, by modality."""
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study_uid}, "Expand": False}
        names = httpx.post(f"{self.root}/tools/find", auth=AUTH, json=query).json()
        found: Objects = defaultdict(list)
        for name in names:
            one = dcmread(BytesIO(httpx.get(f"{self.root}/instances/{name}/file", auth=AUTH).content))
            if one.get("Manufacturer") == "Salus":
                found[str(one.Modality)].append(one)
        return found


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    found = Orthanc(f"http://127.0.0.1:{free_port()}", free_port(), free_port())
    settings = {
        "HttpPort": int(found.root.rsplit(":", 1)[1]), "DicomPort": found.port, "DicomAet": "ORTHANC",
        "StorageDirectory": str(tmp_path / "db"), "IndexDirectory": str(tmp_path / "db"), "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True, "RegisteredUsers": dict([AUTH]), "DicomAlwaysAllowStore": True,
        "DicomModalities": {"salus": {"AET": "SALUS", "Host": "127.0.0.1", "Port": found.node}},
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with running_orthanc(tmp_path / "orthanc.json", found.root, AUTH):
        yield found


class Node(HeldNode):
    """A node beside an Orthanc."""

    def __init__(self, orthanc: Orthanc, package: Path, folder: Path) -> None:
        words = [
            "serve", "start", str(folder / "node"), str(package), "--pacs", f"dicom://ORTHANC@127.0.0.1:{orthanc.port}",
            "--listen", f"SALUS@127.0.0.1:{orthanc.node}", "--floor-gb", "0", "--quiet-s", "0",
        ]  # fmt: skip
        self.folder, self.log = folder / "node", folder / "node.log"
        super().__init__("", words, self.log)
        wait_until(lambda: self.log.exists() and "listening" in self.log.read_text(), "the node")

    def wait(self, count: int) -> None:
        """Wait until this many studies were sent."""

        def states() -> list[str]:
            return [one.state for one in Studies(self.folder, SystemClock()).listed()]

        wait_until(
            lambda: (self.folder / FILE).exists() and states() == ["sent"] * count,
            f"{count} sent studies: {self.log.read_text()}",
        )

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.process.pid or 0, signal.SIGTERM)
        self.process.join()


def write_nifti(folder: Path) -> Path:
    """Write the phantoms of `series_of` as volumes with masks."""
    affine = np.diag([PIXEL_MM, PIXEL_MM, SLICE_MM, 1.0])
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for patient in range(8):
        slices, ball = series_of(patient)
        volume = np.stack([one.pixel_array for one in slices])
        for name, values in (("images", volume), ("masks", ball.astype(np.uint8))):
            nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), affine), folder / name / f"p{patient}.nii.gz")
    return folder


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@real
@needs_dcmqi
@pytest.mark.slow
def test_segmentations_come_back_to_where_the_study_came_from(orthanc: Orthanc, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB.replace('modality = "CT"\n', ""))  # NIfTI files do not say that they are CT
    data = write_nifti(tmp_path / "volumes")
    for words in (
        ("simulate", "job.toml", "--data", data, "--sites", 2, "--output", "run"),
        ("model", "export", "run", "package"),
    ):
        result = salus(*words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    package = tmp_path / "package.zip"
    patients = (8, 9)
    studies = {patient: orthanc.put([saved(one) for one in series_of(patient)[0]]) for patient in patients}
    with Node(orthanc, package, tmp_path) as node:
        for name in studies.values():
            orthanc.send(name)
        node.wait(len(patients))
    for patient in patients:
        slices, _ = series_of(patient)
        scans = tmp_path / f"scans-{patient}"
        scans.mkdir()
        for number, one in enumerate(slices):
            (scans / f"{number}.dcm").write_bytes(saved(one))
        out = tmp_path / f"out-{patient}"
        result = salus("predict", package, scans, "--seg", "--sr", "--output", out, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        found = orthanc.results(f"1.2.826.0.1.7777.{patient}")
        assert {modality: len(objects) for modality, objects in found.items()} == {"SEG": 1, "SR": 1, "OT": 1}
        (wanted,) = (out / "seg").glob("*.dcm")
        ours, theirs = hd.seg.segread(_written(tmp_path / f"{patient}.dcm", found["SEG"][0])), hd.seg.segread(wanted)
        uids = [one.SOPInstanceUID for one in slices]
        both = [one.get_pixels_by_source_instance(uids, combine_segments=True) for one in (ours, theirs)]
        assert (both[0] == both[1]).all()
        assert both[0].any()
        for one in (ours, found["SR"][0], found["OT"][0]):
            assert one.SeriesDescription.startswith("For research use")
            assert one.ContentQualification == "RESEARCH"
        assert ours.ContentDescription.startswith("For research use")
        mask, _, described = read_segmentation(tmp_path / f"{patient}.dcm", tmp_path / f"read-{patient}")
        assert np.count_nonzero(mask) == np.count_nonzero(both[0])
        assert described[0]["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "52988006"
        report = read_report(_written(tmp_path / f"{patient}-sr.dcm", found["SR"][0]), tmp_path / f"{patient}.json")
        (row,) = read_rows(out / "predictions.csv")
        value = float(report["Measurements"][0]["measurementItems"][0]["value"])
        assert value == pytest.approx(float(row["lesion_ml"]), rel=1e-4)
        reference = found["SR"][0].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        assert ours.SOPInstanceUID in {
            item.ReferencedSOPInstanceUID for series in reference for item in series.ReferencedSOPSequence
        }


@real
@pytest.mark.slow
def test_probabilities_come_back_and_a_forwarding_pacs_makes_no_loop(
    orthanc: Orthanc, plain_run: Path, tmp_path: Path
) -> None:
    package = export(plain_run, tmp_path / "package")
    name, uid = orthanc.put(pictures(7, 3)), "1.2.826.0.1.7778.7"
    with Node(orthanc, package, tmp_path) as node:
        assert httpx.post(f"{orthanc.root}/modalities/salus/echo", auth=AUTH, timeout=900.0).status_code == 200
        orthanc.send(name)
        node.wait(1)
        orthanc.send(name)  # with its results, as a PACS does that forwards every change
        node.wait(2)
    found = orthanc.results(uid)
    assert {modality: len(objects) for modality, objects in found.items()} == {"SR": 3, "OT": 3}
    studies = Studies(node.folder, SystemClock())
    assert studies.counts() == {"own-result": 6}
    assert studies.listed()[0].reason == "repeated"
    scans = tmp_path / "scans"
    scans.mkdir()
    for number, data in enumerate(pictures(7, 3)):
        (scans / f"{number}.dcm").write_bytes(data)
    result = salus("predict", package, scans, "--output", tmp_path / "out", "--json")
    assert result.returncode == 0, result.stderr
    wanted = sorted(sorted(item["probabilities"].values()) for item in json.loads(result.stdout)["items"])
    said = sorted(sorted(_numbers(one)) for one in found["SR"])
    assert np.allclose(said, wanted, atol=1e-6)


def _numbers(report: FileDataset) -> list[float]:
    found: list[float] = []

    def visit(items: object) -> None:
        for item in items:  # type: ignore[attr-defined]
            if item.ValueType == "NUM":
                found.append(float(item.MeasuredValueSequence[0].NumericValue))
            visit(item.get("ContentSequence", []))

    visit(report.ContentSequence)
    return found


def _written(path: Path, dataset: FileDataset) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path
