from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from tests.client.outgoing.dcmqi_reader import needs_dcmqi, read_report
from tests.client.outgoing.series import PRODUCER, series

from salus.client.data.dicom.annotations import annotations_of
from salus.client.data.dicom.instances import instance_of
from salus.client.outgoing.coding import coded
from salus.client.outgoing.dicom_seg import write_segmentation
from salus.client.outgoing.dicom_sr import write_label_report, write_volume_report
from salus.common.errors import DataError

CLASSES = coded(("normal", "pneumonia"))
STRUCTURES = coded(("liver", "tumour"))


def test_a_class_is_a_finding_with_a_probability_for_every_class(tmp_path: Path) -> None:
    instances = [instance_of(series()[0])]
    uid = write_label_report(
        tmp_path / "sr.dcm", instances, {"normal": 0.25, "pneumonia": 0.75}, CLASSES, PRODUCER, finding="pneumonia"
    )
    report = dcmread(tmp_path / "sr.dcm")
    assert (report.SOPInstanceUID, report.PatientID, report.StudyInstanceUID) == (uid, "P1", "1.2.3")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    import highdicom as hd

    (group,) = hd.sr.ComprehensiveSR.from_dataset(report).content.get_image_measurement_groups()
    assert group.finding_type.meaning == "pneumonia"
    assert {value.name.meaning: value.value for value in group.get_measurements()} == {
        "Normal": 0.25,
        "pneumonia": 0.75,
    }
    assert [(one.name, one.value) for one in annotations_of(report)] == [("Normal", 0.25), ("pneumonia", 0.75)]
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert [item.ReferencedSOPInstanceUID for item in evidence] == ["1.2.3.4.1"]


def test_volumes_are_read_back_by_our_own_reader(tmp_path: Path) -> None:
    instances = [instance_of(dataset) for dataset in series()]
    planes = np.ones((5, 6, 8), np.uint8)
    segmentation = write_segmentation(tmp_path / "seg.dcm", planes, instances, STRUCTURES, PRODUCER)
    volumes = {"liver": 12.5, "tumour": 0.0}
    write_volume_report(tmp_path / "sr.dcm", instances, segmentation, volumes, STRUCTURES, PRODUCER)
    report = dcmread(tmp_path / "sr.dcm")
    assert [(one.name, one.value, one.unit) for one in annotations_of(report)] == [
        ("Volume", 12.5, "ml"),
        ("Volume", 0.0, "ml"),
    ]
    import highdicom as hd

    groups = hd.sr.ComprehensiveSR.from_dataset(report).content.get_volumetric_roi_measurement_groups()
    assert [group.finding_type.meaning for group in groups] == ["Liver", "Neoplasm"]
    for number, group in enumerate(groups, start=1):
        assert group.referenced_segment.referenced_sop_instance_uid == segmentation.sop_instance_uid
        assert group.referenced_segment[0].ReferencedSOPSequence[0].ReferencedSegmentNumber == number


def test_several_findings_and_numbers_are_measurements_without_a_finding(tmp_path: Path) -> None:
    instances = [instance_of(series()[0])]
    write_label_report(tmp_path / "a.dcm", instances, {"normal": 0.7, "pneumonia": 0.8}, CLASSES, PRODUCER)
    write_label_report(tmp_path / "b.dcm", instances, {"age": 71.5}, coded(("age",)), PRODUCER, probable=False)
    import highdicom as hd

    for name, numbers in (("a", [0.7, 0.8]), ("b", [71.5])):
        report = hd.sr.ComprehensiveSR.from_dataset(dcmread(tmp_path / f"{name}.dcm"))
        (group,) = report.content.get_image_measurement_groups()
        assert group.finding_type is None
        assert [value.value for value in group.get_measurements()] == numbers


@needs_dcmqi
def test_an_independent_reader_finds_the_volumes(tmp_path: Path) -> None:
    instances = [instance_of(dataset) for dataset in series()]
    segmentation = write_segmentation(
        tmp_path / "seg.dcm", np.ones((5, 6, 8), np.uint8), instances, STRUCTURES, PRODUCER
    )
    volumes = {"liver": 12.5, "tumour": 0.25}
    write_volume_report(tmp_path / "sr.dcm", instances, segmentation, volumes, STRUCTURES, PRODUCER)
    found = read_report(tmp_path / "sr.dcm", tmp_path / "report.json")
    assert [float(group["measurementItems"][0]["value"]) for group in found["Measurements"]] == [12.5, 0.25]
    assert {group["segmentationSOPInstanceUID"] for group in found["Measurements"]} == {segmentation.sop_instance_uid}


@pytest.mark.parametrize(
    "probabilities", [{"normal": 1.0}, {"normal": 0.5, "pneumonia": 1.5}, {"normal": 0.5, "pneumonia": float("nan")}]
)
def test_numbers_that_are_no_probabilities_are_refused(tmp_path: Path, probabilities: dict[str, float]) -> None:
    with pytest.raises(DataError, match="for every class"):
        write_label_report(tmp_path / "sr.dcm", [instance_of(series()[0])], probabilities, CLASSES, PRODUCER)
    assert list(tmp_path.iterdir()) == []
