"""Segmentations are de-identified: the mask stays to the voxel, the named structures stay, everything else goes."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from tests.client.data.dicom.test_deidentify import SECRET
from tests.client.outgoing.dcmqi_reader import needs_dcmqi, read_segmentation
from tests.client.outgoing.series import ORIENTATIONS, PRODUCER, series, volume

from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.deidentify import uid
from salus.client.data.dicom.instances import instance_of
from salus.client.outgoing.coding import coded
from salus.client.outgoing.dicom_seg import write_segmentation
from salus.client.outgoing.planes import in_order, planes_of
from salus.common.errors import UnreadableImage


def written(folder: Path, orientation: str = "axial", *, empty: bool = False, **more: object) -> pydicom.Dataset:
    """Return a segmentation of three structures on a series."""
    folder.mkdir(parents=True, exist_ok=True)
    slices = series(orientation, **more)
    values, affine = volume(slices)
    mask = np.select([values > 330, values % 10 > 5, values % 10 < 2], [2, 1, 3], 0).astype(np.uint8) * (not empty)
    instances = in_order([instance_of(dataset) for dataset in slices])
    planes = planes_of(mask, affine, instances)
    write_segmentation(folder / "seg.dcm", planes, instances, coded(("liver", "tumour", "CANARY zone")), PRODUCER)
    dataset = pydicom.dcmread(folder / "seg.dcm")
    dataset.Manufacturer = "Reading station"  # what Salus itself has predicted is refused
    return dataset


def saved(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@needs_dcmqi
@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
def test_the_named_structures_stay_where_they_are(tmp_path: Path, orientation: str) -> None:
    original = written(tmp_path, orientation)
    with Isolated(SECRET, structures=("tumour", "liver")) as child:
        clean = child.clean(saved(original))
    assert clean.annotation
    (tmp_path / "clean.dcm").write_bytes(clean.data)
    before, place, _ = read_segmentation(tmp_path / "seg.dcm", tmp_path / "before")
    after, placed, described = read_segmentation(tmp_path / "clean.dcm", tmp_path / "after")
    assert [one["SegmentLabel"] for one in described] == ["liver", "tumour"]
    points = np.argwhere((before == 1) | (before == 2))
    there = (np.linalg.inv(placed) @ place @ np.c_[points, np.ones(len(points))].T)[:3].T
    assert there == pytest.approx(there.round(), abs=1e-3)
    assert (after[tuple(there.round().astype(int).T)] == before[tuple(points.T)]).all()
    assert np.count_nonzero(after) == len(points) > 0


def test_a_prediction_of_salus_is_not_imported(tmp_path: Path) -> None:
    written(tmp_path)
    with Isolated(SECRET, structures=("liver",)) as child, pytest.raises(UnreadableImage) as caught:
        child.clean((tmp_path / "seg.dcm").read_bytes())
    assert caught.value.reason == "own-prediction"


def test_no_identifier_and_no_other_text_is_left(tmp_path: Path) -> None:
    original = written(
        tmp_path, PatientName="CANARY^Name", PatientID="CANARY-PID", AccessionNumber="CANARY", StudyDate="20200131"
    )
    original.SegmentSequence[0].SegmentDescription = "CANARY"
    original.SegmentSequence[0].TrackingID = "CANARY"
    original.ContentCreatorName = "CANARY^Reader"
    original.PerFrameFunctionalGroupsSequence[0].add_new(0x00091001, "LO", "CANARY")
    original.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].PurposeOfReferenceCodeSequence = [
        original.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    ]
    with Isolated(SECRET, structures=("liver",)) as child:
        clean = child.clean(saved(original))
    assert b"CANARY" not in clean.data
    assert b"1.2.3.4" not in clean.data
    assert b"20200131" not in clean.data
    made = pydicom.dcmread(io.BytesIO(clean.data))
    references = made.ReferencedSeriesSequence[0]
    assert references.SeriesInstanceUID == uid(SECRET, "1.2.3.4")
    assert {one.ReferencedSOPInstanceUID for one in references.ReferencedInstanceSequence} == {
        uid(SECRET, f"1.2.3.4.{number}") for number in range(1, 6)
    }
    assert made.FrameOfReferenceUID == uid(SECRET, "1.2.9")


def test_nothing_found_fractions_and_label_maps(tmp_path: Path) -> None:
    import highdicom as hd

    with Isolated(SECRET, structures=("liver",)) as child:
        empty = pydicom.dcmread(io.BytesIO(child.clean(saved(written(tmp_path / "a", empty=True))).data))
        assert not empty.pixel_array.any()
        assert [one.SegmentLabel for one in empty.SegmentSequence] == ["liver"]
        slices = sorted(series(), key=lambda one: one.ImagePositionPatient[2])
        for dataset in slices:
            for keyword in ("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "PatientSex", "PatientBirthDate"):
                setattr(dataset, keyword, "")
            dataset.SliceThickness = 3.0
        shares = np.linspace(0, 1, 5 * 6 * 8).reshape(5, 6, 8)
        for kind, pixels in (("FRACTIONAL", shares), ("LABELMAP", (shares >= 0.5).astype(np.uint8))):
            description = hd.seg.SegmentDescription(
                1,
                "liver",
                hd.sr.CodedConcept("85756007", "SCT", "Tissue"),
                hd.sr.CodedConcept("10200004", "SCT", "Liver"),
                "MANUAL",
            )
            made = hd.seg.Segmentation(
                slices,
                pixels,
                kind,
                [description],
                hd.UID(),
                2,
                hd.UID(),
                1,
                "m",
                "m",
                "1",
                "1",
                omit_empty_frames=False,
            )
            clean = pydicom.dcmread(io.BytesIO(child.clean(saved(made)).data))
            assert clean.SegmentationType == "BINARY"
            assert clean.pixel_array.sum() == (np.round(shares * 255) >= 127.5).sum()


def test_what_is_not_asked_for_or_damaged_is_refused(tmp_path: Path) -> None:
    original = written(tmp_path)
    hostile = {"other-structures": ("spleen", original), "annotation": ("", original)}
    without = written(tmp_path / "b")
    del without.PerFrameFunctionalGroupsSequence
    hostile["unsupported"] = ("liver", without)
    tilted = written(tmp_path / "c")
    tilted.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [0, 0, float("inf")]
    hostile["bad-geometry"] = ("liver", tilted)
    huge = written(tmp_path / "d")
    huge.Rows = huge.Columns = 65535
    hostile["too-large"] = ("liver", huge)
    for reason, (structure, dataset) in hostile.items():
        names = (structure,) if structure else ()
        with Isolated(SECRET, structures=names) as child, pytest.raises(UnreadableImage) as caught:
            child.clean(saved(dataset))
        assert caught.value.reason == reason
