import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset
from tests.client.data.dicom_files import make
from tests.client.outgoing.dcmqi_reader import needs_dcmqi, read_segmentation
from tests.client.outgoing.series import COLUMNS, ORIENTATIONS, PRODUCER, ROWS, SPACING, position, series, volume

from salus.client.data.dicom.instances import Instance, instance_of
from salus.client.outgoing.coding import coded
from salus.client.outgoing.dicom_seg import write_segmentation
from salus.client.outgoing.dicom_sr import write_volume_report
from salus.client.outgoing.planes import in_order, planes_of
from salus.common.codes import ClassCode
from salus.common.errors import ConfigError, DataError, UnreadableImage

STRUCTURES = coded(("liver", "tumour"), (ClassCode(of="tumour", type="SCT:4147007:Mass"),))


def predicted(
    orientation: str = "axial",
) -> tuple[list[FileDataset], np.ndarray, list[Instance], np.ndarray, np.ndarray]:
    """Return slices, the mask on the volume, ordered instances, the mask on their planes and the affine."""
    slices = series(orientation)
    values, affine = volume(slices)
    mask = np.where(values > 330, 2, np.where((values > 120) & (values % 10 > 2), 1, 0)).astype(np.uint8)
    instances = in_order([instance_of(dataset) for dataset in slices])
    return slices, mask, instances, planes_of(mask, affine, instances), affine


@needs_dcmqi
@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
def test_an_independent_reader_finds_every_voxel_where_it_was_predicted(tmp_path: Path, orientation: str) -> None:
    slices, _, instances, planes, _ = predicted(orientation)
    write_segmentation(tmp_path / "seg.dcm", planes, instances, STRUCTURES, PRODUCER)
    found, affine, described = read_segmentation(tmp_path / "seg.dcm", tmp_path / "read")
    to_index = np.linalg.inv(affine)
    by_uid = {dataset.SOPInstanceUID: dataset for dataset in slices}
    expected = 0
    for plane, instance in zip(planes, instances, strict=True):
        for row, column in np.argwhere(plane):
            lps = position(by_uid[instance.sop_instance_uid], row, column)
            index = (to_index @ np.array([-lps[0], -lps[1], lps[2], 1.0]))[:3]
            assert index == pytest.approx(index.round(), abs=0.01)
            assert found[tuple(index.round().astype(int))] == plane[row, column]
            expected += 1
    assert np.count_nonzero(found) == expected > 0
    assert abs(np.linalg.det(affine[:3, :3])) == pytest.approx(SPACING[0] * SPACING[1] * 3.0, rel=1e-4)
    assert [entry["SegmentLabel"] for entry in described] == ["liver", "tumour"]
    assert described[1]["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "4147007"


def test_the_object_refers_to_its_sources_and_is_the_patients(tmp_path: Path) -> None:
    _, _, instances, planes, _ = predicted()
    known = write_segmentation(tmp_path / "seg.dcm", planes, instances, STRUCTURES, PRODUCER)
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (written.SOPInstanceUID, written.SeriesInstanceUID) == (known.sop_instance_uid, known.series_uid)
    assert (written.PatientID, str(written.PatientName), written.StudyInstanceUID) == ("P1", "Doe^Jane", "1.2.3")
    assert written.FrameOfReferenceUID == "1.2.9"
    referenced = {
        item.ReferencedSOPInstanceUID
        for series_item in written.ReferencedSeriesSequence
        for item in series_item.ReferencedInstanceSequence
    }
    assert referenced == {instance.sop_instance_uid for instance in instances}
    for group in written.PerFrameFunctionalGroupsSequence:
        (image,) = group.DerivationImageSequence[0].SourceImageSequence
        place = group.PlanePositionSequence[0].ImagePositionPatient
        (source,) = [one for one in instances if one.sop_instance_uid == image.ReferencedSOPInstanceUID]
        assert list(place) == pytest.approx(list(source.position))


def test_the_same_prediction_has_the_same_identifiers_and_another_has_others(tmp_path: Path) -> None:
    _, _, instances, planes, _ = predicted()
    first, again, other = (
        write_segmentation(tmp_path / "seg.dcm", mask, instances, STRUCTURES, PRODUCER).sop_instance_uid
        for mask in (planes, planes, planes.clip(0, 1))
    )
    assert first == again != other


def test_nothing_found_and_overlapping_structures_are_written(tmp_path: Path) -> None:
    _, _, instances, planes, _ = predicted()
    write_segmentation(tmp_path / "empty.dcm", planes * 0, instances, STRUCTURES, PRODUCER)
    empty = pydicom.dcmread(tmp_path / "empty.dcm")
    assert len(empty.SegmentSequence) == 2
    assert not empty.pixel_array.any()
    layers = np.stack([planes > 0, planes > 1], axis=-1)
    write_segmentation(tmp_path / "both.dcm", layers, instances, STRUCTURES, PRODUCER)
    both = pydicom.dcmread(tmp_path / "both.dcm")
    assert both.pixel_array.sum() == layers.sum()
    assert both.SegmentsOverlap == "YES"


def test_a_projection_image_gets_a_segmentation_pixel_by_pixel(tmp_path: Path) -> None:
    radiograph = make(
        np.zeros((ROWS, COLUMNS), np.uint8), SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1", Modality="DX", PatientSex="unknown",
        PatientBirthDate="around 1950",
    )  # fmt: skip
    mask = np.zeros((1, ROWS, COLUMNS), np.uint8)
    mask[0, 2:4, 3:6] = 1
    write_segmentation(tmp_path / "seg.dcm", mask, [instance_of(radiograph)], STRUCTURES[:1], PRODUCER)
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (written.pixel_array == mask[0]).all()
    assert (written.PatientSex, written.PatientBirthDate) == ("", "")  # what a strict writer cannot say is left out


def test_no_warning_or_log_line_quotes_a_patient(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    slices = series(PatientName="CANARY", PatientID="CANARY " * 20)
    instances = [instance_of(dataset) for dataset in slices]
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        planes = np.ones((5, ROWS, COLUMNS), np.uint8)
        written = write_segmentation(tmp_path / "seg.dcm", planes, instances, STRUCTURES, PRODUCER)
        volumes = {"liver": 1.0, "tumour": 0.0}
        write_volume_report(tmp_path / "sr.dcm", instances, written, volumes, STRUCTURES, PRODUCER)
    said = [str(one.message) for one in caught] + [record.getMessage() for record in caplog.records]
    assert "CANARY" not in "".join([*said, *capfd.readouterr()])
    assert pydicom.dcmread(tmp_path / "seg.dcm").PatientName == "CANARY"


def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, instances, planes, _ = predicted()
    unreferenced = [one.model_copy(update={"frame_of_reference_uid": None}) for one in instances]
    with pytest.raises(UnreadableImage) as caught:
        write_segmentation(tmp_path / "seg.dcm", planes, unreferenced, STRUCTURES, PRODUCER)
    assert caught.value.reason == "no-frame-of-reference"
    with pytest.raises(UnreadableImage) as caught:
        write_segmentation(tmp_path / "seg.dcm", planes[:1], unreferenced[:1], STRUCTURES, PRODUCER)
    assert caught.value.reason == "no-segmentation"
    for wrong, structures in ((planes[:-1], STRUCTURES), (planes, STRUCTURES[:1]), (planes[..., None], STRUCTURES)):
        with pytest.raises(DataError, match="Expected planes of shape"):
            write_segmentation(tmp_path / "seg.dcm", wrong, instances, structures, PRODUCER)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ConfigError, match=r"pip install 'salus\[dicom-out\]'"):
        write_segmentation(tmp_path / "seg.dcm", planes, instances, STRUCTURES, PRODUCER)
    assert list(tmp_path.iterdir()) == []
