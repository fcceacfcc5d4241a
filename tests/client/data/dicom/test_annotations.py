"""Objects written by highdicom, as hospitals' tools write them, read in the child."""

import csv
import io
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from tests.client.data.dicom_files import write as write_image
from tests.client.data.incoming.test_importing import hostile
from typer.testing import CliRunner

from salus.cli import app
from salus.client.data.dicom.cleaning import Isolated
from salus.common.errors import DataError, UnreadableImage

STUDY = "1.2.826.0.1.3680043.8.498.77"


def source_image(folder: Path) -> pydicom.Dataset:
    path = write_image(
        folder / "image.dcm", np.zeros((8, 10), np.uint16), StudyInstanceUID=STUDY, PatientID="P1",
        SeriesInstanceUID=hd.UID(), SOPInstanceUID=hd.UID(), FrameOfReferenceUID=hd.UID(), PixelSpacing=[2.0, 2.5],
        SliceThickness=4.0, ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=[1, 0, 0, 0, 1, 0], Modality="CT",
        StudyID="", StudyDate="20200101", StudyTime="", AccessionNumber="", PatientName="", PatientSex="", PatientBirthDate="",
        ReferringPhysicianName="", SeriesNumber=1,
    )  # fmt: skip
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    return dataset


def algorithm() -> hd.AlgorithmIdentificationSequence:
    return hd.AlgorithmIdentificationSequence("a", codes.DCM.ArtificialIntelligence, "1")


def segmentation(image: pydicom.Dataset, voxels: dict[str, int]) -> bytes:
    masks = np.zeros((1, 8, 10, len(voxels)), np.uint8)
    for number, count in enumerate(voxels.values()):
        masks[0, :, :, number].reshape(-1)[:count] = 1
    descriptions = [
        hd.seg.SegmentDescription(
            number, name, codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion,
            hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC, algorithm(),
        )
        for number, name in enumerate(voxels, start=1)
    ]  # fmt: skip
    seg = hd.seg.Segmentation(
        [image], masks, hd.seg.SegmentationTypeValues.BINARY, descriptions, hd.UID(), 2, hd.UID(), 1, "m", "m", "1", "1",
        omit_empty_frames=False, pixel_measures=hd.PixelMeasuresSequence([2.0, 2.5], 4.0, 4.0),
    )  # fmt: skip
    buffer = io.BytesIO()
    seg.save_as(buffer)
    return buffer.getvalue()


def report(image: pydicom.Dataset, diameter_mm: float) -> bytes:
    observer = hd.sr.ObserverContext(
        codes.DCM.Device, hd.sr.DeviceObserverIdentifyingAttributes(uid=hd.UID(), name="device")
    )
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(hd.UID(), "lesion"),
        measurements=[hd.sr.Measurement(codes.SCT.Diameter, diameter_mm, codes.UCUM.Millimeter)],
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=[group],
    )
    sr = hd.sr.ComprehensiveSR(
        evidence=[image], content=content[0], series_instance_uid=hd.UID(), series_number=3, sop_instance_uid=hd.UID(),
        instance_number=1, manufacturer="m",
    )  # fmt: skip
    buffer = io.BytesIO()
    sr.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_segments_become_millilitres_and_measurements_keep_their_unit(tmp_path: Path) -> None:
    image = source_image(tmp_path)
    with Isolated() as child:
        lesion, liver = child.annotations(segmentation(image, {"Lesion": 30, "Liver": 0}))
        assert (lesion.name, lesion.study, lesion.patient, lesion.unit) == ("Lesion", STUDY, "P1", "ml")
        assert lesion.value == pytest.approx(30 * 2.0 * 2.5 * 4.0 / 1000)
        assert (liver.name, liver.value) == ("Liver", 0.0)
        (found,) = child.annotations(report(image, 12.5))
        assert (found.name, found.value, found.unit, found.study) == ("Diameter", 12.5, "mm", STUDY)
        with pytest.raises(UnreadableImage) as caught:
            child.annotations((tmp_path / "image.dcm").read_bytes())
        assert caught.value.reason == "no-annotation"


def test_a_label_file_that_an_import_can_use(tmp_path: Path) -> None:
    image = source_image(tmp_path / "images")
    folder = tmp_path / "objects"
    folder.mkdir()
    (folder / "seg.dcm").write_bytes(segmentation(image, {"Lesion": 30}))
    (folder / "small.dcm").write_bytes(segmentation(image, {"Lesion": 3}))
    (folder / "sr.dcm").write_bytes(report(image, 12.5))
    for number, data in enumerate(hostile().values()):
        (folder / f"hostile{number}").write_bytes(data)
    output = tmp_path / "labels.csv"
    arguments = ["dataset", "labels", str(folder), str(output)]
    result = CliRunner().invoke(app, [*arguments, "--name", "Lesion", "--above", "0.5"])
    assert result.exit_code == 0, result.output
    assert output.stat().st_mode & 0o777 == 0o600
    assert rows_of(output) == [{"StudyInstanceUID": STUDY, "PatientID": "P1", "label": "1"}]
    result = CliRunner().invoke(app, [*arguments, "--name", "Diameter"])
    assert rows_of(output)[0]["label"] == "12.5"
    missing = CliRunner().invoke(app, [*arguments, "--name", "Tumour"]).exception
    assert isinstance(missing, DataError)
    assert "Diameter, Lesion" in str(missing)
