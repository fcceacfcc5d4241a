"""DICOM segmentations and structure sets as masks of their series, against phantoms that are exact to a voxel."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid
from tests.client.data.dicom_annotations import (
    AXIAL,
    SAGITTAL,
    SHAPE,
    SPACING,
    STEP,
    TILTED,
    saved,
    segmentation,
    series,
    structure_set,
)

from salus.client.data.dicom.contours import filled
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.records import ImageRecord, Quarantined, Sample
from salus.client.data.sources import open_source
from salus.client.data.sources.settings import SourceOptions
from salus.client.outgoing.producer import MANUFACTURER

VOXEL_ML = SPACING[0] * SPACING[1] * STEP / 1000
LIVER, TUMOUR = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
LIVER[1:4, 2:6, 1:4] = True  # 36 voxels
TUMOUR[2, 3:7, 5:9] = True  # 16 voxels
VOLUMES = SourceOptions(volumes=True)
CHILD = Decoding()


def scanned(
    folder: Path, options: SourceOptions = VOLUMES, decoding: Decoding | None = CHILD
) -> tuple[list[tuple[ImageRecord, Sample]], list[tuple[str, str]]]:
    source = open_source("dicom", folder, options, decoding)
    found = list(source.scan())
    good = [(item, source.load(item.key)) for item in found if isinstance(item, ImageRecord)]
    assert all(item.sha256 == sample.sha256 for item, sample in good)
    return good, [(item.key, item.reason) for item in found if isinstance(item, Quarantined)]


def in_patient(sample: Sample, number: int = 1, channel: int | None = None) -> set[tuple[float, ...]]:
    """Return the places in millimetres of all voxels of a class."""
    assert sample.affine is not None
    mask = sample.targets["mask"] if channel is None else sample.targets["mask"][channel]
    index = np.argwhere(mask == number)
    points = np.concatenate([index, np.ones((len(index), 1))], axis=1) @ sample.affine.T
    return {tuple(np.round(point[:3], 2) + 0.0) for point in points}


def true_places(slices: list[pydicom.Dataset], mask: np.ndarray) -> set[tuple[float, ...]]:
    """Return the same from the slices' own attributes."""
    places = set()
    for number, row, column in np.argwhere(mask):
        axes = np.array(slices[number].ImageOrientationPatient, float)
        corner = np.array(slices[number].ImagePositionPatient, float)
        places.add(tuple(np.round(corner + row * SPACING[0] * axes[3:] + column * SPACING[1] * axes[:3], 2) + 0.0))
    return places


@pytest.mark.parametrize("axes", [AXIAL, SAGITTAL, TILTED])
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segments_lie_where_their_planes_lie(tmp_path: Path, axes: tuple[float, ...], kind: str) -> None:
    slices = series(tmp_path, axes=axes)
    masks = {"Liver": LIVER.astype(float), "Tumour": TUMOUR.astype(float)}
    if kind == "FRACTIONAL":
        masks["Liver"] = np.where(LIVER, 0.6, 0.4)  # from half on a voxel belongs to its segment
    saved(segmentation(slices, masks, kind), tmp_path / "seg.dcm")
    ((item, sample),), bad = scanned(tmp_path)
    assert bad == []
    assert item.targets["mask"].amounts == pytest.approx({"Liver": 36 * VOXEL_ML, "Tumour": 16 * VOXEL_ML})
    assert item.label == f"{52 * VOXEL_ML:.3f}"
    assert sample.names["mask"] == ("Liver", "Tumour")
    assert in_patient(sample, 1) == true_places(slices, LIVER)
    assert in_patient(sample, 2) == true_places(slices, TUMOUR)


def test_a_series_with_a_segmentation_and_one_with_contours_are_told_apart(tmp_path: Path) -> None:
    slices = series(tmp_path / "a")
    saved(segmentation(slices, {"Liver": LIVER}), tmp_path / "a" / "seg.dcm")
    others = series(tmp_path / "b", patient="P2")
    saved(structure_set(others, {"Liver": {2: [square(1.5, 2.5, 5.5, 6.5)]}}), tmp_path / "b" / "rt.dcm")
    good, bad = scanned(tmp_path)
    assert [item for item, _ in scanned(tmp_path, decoding=None)[0]] == [item for item, _ in good]
    assert bad == []
    assert [item.targets["mask"].amounts for item, _ in good] == [
        pytest.approx({"Liver": 36 * VOXEL_ML}), pytest.approx({"Liver": 16 * VOXEL_ML}),
    ]  # fmt: skip
    assert in_patient(good[0][1]) == true_places(slices, LIVER)


def test_overlapping_segments_become_channels(tmp_path: Path) -> None:
    slices = series(tmp_path)
    saved(segmentation(slices, {"Liver": LIVER, "Whole": LIVER | TUMOUR}), tmp_path / "seg.dcm")
    ((item, sample),), _ = scanned(tmp_path)
    assert sample.targets["mask"].shape == (2, *SHAPE)
    assert in_patient(sample, channel=0) == true_places(slices, LIVER)
    assert in_patient(sample, channel=1) == true_places(slices, LIVER | TUMOUR)
    assert item.targets["mask"].amounts == pytest.approx({"Liver": 36 * VOXEL_ML, "Whole": 52 * VOXEL_ML})
    ((item, sample),), _ = scanned(tmp_path, VOLUMES.model_copy(update={"structures": ("Whole",)}))
    assert sample.targets["mask"].shape == SHAPE
    assert sample.names["mask"] == ("Whole",)


def test_frames_that_are_left_out_are_empty_and_order_does_not_matter(tmp_path: Path) -> None:
    slices = series(tmp_path)
    seg = segmentation(slices, {"Tumour": TUMOUR}, omit_empty_frames=True)
    assert int(seg.NumberOfFrames) == 1
    saved(seg, tmp_path / "seg.dcm")
    ((_, sample),), bad = scanned(tmp_path)
    assert bad == []
    assert in_patient(sample) == true_places(slices, TUMOUR)
    both = segmentation(list(reversed(slices)), {"Tumour": np.flip(TUMOUR, 0), "Liver": np.flip(LIVER, 0)})
    saved(both, tmp_path / "seg.dcm")
    ((_, sample),), bad = scanned(tmp_path)
    assert in_patient(sample, 2) == true_places(slices, LIVER)


def test_a_coarser_segmentation_is_placed_by_its_own_geometry(tmp_path: Path) -> None:
    slices = series(tmp_path)
    coarse = np.zeros((SHAPE[0], 4, 5), bool)
    coarse[1, 1:3, 2] = True
    seg = segmentation(
        slices, {"Liver": coarse},
        pixel_measures=hd_measures(SPACING[0] * 2, SPACING[1] * 2),
        plane_positions=[moved(image, SPACING[0] / 2, SPACING[1] / 2) for image in slices],
    )  # fmt: skip
    saved(seg, tmp_path / "seg.dcm")
    ((_, sample),), bad = scanned(tmp_path)
    assert bad == []
    assert in_patient(sample) == true_places(slices, coarse.repeat(2, axis=1).repeat(2, axis=2))


def hd_measures(rows: float, columns: float) -> Any:
    import highdicom as hd

    return hd.PixelMeasuresSequence([rows, columns], STEP, STEP)


def moved(image: pydicom.Dataset, down: float, right: float) -> Any:
    import highdicom as hd

    corner = np.array(image.ImagePositionPatient, float) + np.array([right, down, 0.0])
    return hd.PlanePositionSequence("PATIENT", corner.tolist())


def test_two_objects_of_one_series_are_one_mask_unless_they_name_the_same_structure(tmp_path: Path) -> None:
    slices = series(tmp_path)
    saved(segmentation(slices, {"Liver": LIVER}), tmp_path / "seg1.dcm")
    saved(segmentation(slices, {"Tumour": TUMOUR}), tmp_path / "seg2.dcm")
    ((item, sample),), bad = scanned(tmp_path)
    assert item.targets["mask"].amounts == pytest.approx({"Liver": 36 * VOXEL_ML, "Tumour": 16 * VOXEL_ML})
    assert in_patient(sample, 2) == true_places(slices, TUMOUR)
    assert len(json.loads(item.key)) == SHAPE[0] + 2
    saved(segmentation(slices, {"Liver": TUMOUR}), tmp_path / "seg2.dcm")
    (tmp_path / "labels.csv").write_text("PatientID,label\nP1,x\n")
    ((item, sample),), bad = scanned(tmp_path)
    assert (item.targets, item.label) == ({}, "x")
    assert bad == [("seg1.dcm", "several-masks"), ("seg2.dcm", "several-masks")]


def test_single_slices_get_their_own_plane_of_a_segmentation(tmp_path: Path) -> None:
    slices = series(tmp_path)
    saved(segmentation(slices, {"Liver": LIVER, "Tumour": TUMOUR}), tmp_path / "seg.dcm")
    good, bad = scanned(tmp_path, SourceOptions(masks="."))
    assert bad == []
    assert len(good) == SHAPE[0]
    by_name = {json.loads(item.key)[0]: (item, sample) for item, sample in good}
    for number, name in enumerate(sorted(by_name)):
        item, sample = by_name[name]
        expected = LIVER[number] + 2 * TUMOUR[number].astype(int)
        assert np.array_equal(sample.targets["mask"], expected)
        assert item.targets["mask"].amounts == pytest.approx(
            {"Liver": LIVER[number].sum() * VOXEL_ML, "Tumour": TUMOUR[number].sum() * VOXEL_ML}
        )


def another_series(seg: pydicom.Dataset, slices: list[pydicom.Dataset]) -> None:
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid()


def another_image(seg: pydicom.Dataset, slices: list[pydicom.Dataset]) -> None:
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = generate_uid()


def another_source(seg: pydicom.Dataset, slices: list[pydicom.Dataset]) -> None:
    source = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    source.ReferencedSOPInstanceUID = slices[-1].SOPInstanceUID


def another_frame_of_reference(seg: pydicom.Dataset, slices: list[pydicom.Dataset]) -> None:
    seg.FrameOfReferenceUID = generate_uid()


def another_patient(seg: pydicom.Dataset, slices: list[pydicom.Dataset]) -> None:
    seg.PatientID = "P2"


def far_away(seg: pydicom.Dataset, slices: list[pydicom.Dataset]) -> None:
    positions = {id(f.PlanePositionSequence): f.PlanePositionSequence[0] for f in seg.PerFrameFunctionalGroupsSequence}
    for position in positions.values():  # frames of one plane share it
        position.ImagePositionPatient = [
            float(position.ImagePositionPatient[0]) + 500,
            *position.ImagePositionPatient[1:],
        ]


def no_position(seg: pydicom.Dataset, slices: list[pydicom.Dataset]) -> None:
    del seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence


def nan_position(seg: pydicom.Dataset, slices: list[pydicom.Dataset]) -> None:
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = ["nan", "nan", "nan"]


def out_of_line(seg: pydicom.Dataset, slices: list[pydicom.Dataset]) -> None:
    for frame in seg.PerFrameFunctionalGroupsSequence[1:2]:
        position = frame.PlanePositionSequence[0]
        position.ImagePositionPatient = [
            float(position.ImagePositionPatient[0]) + 1,
            *position.ImagePositionPatient[1:],
        ]


def huge(seg: pydicom.Dataset, slices: list[pydicom.Dataset]) -> None:
    seg.Rows = seg.Columns = 60000


def cut(seg: pydicom.Dataset, slices: list[pydicom.Dataset]) -> None:
    seg.PixelData = seg.PixelData[:2]


def unknown_segment(seg: pydicom.Dataset, slices: list[pydicom.Dataset]) -> None:
    seg.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 99


def many_frames(seg: pydicom.Dataset, slices: list[pydicom.Dataset]) -> None:
    seg.NumberOfFrames = 2**31 - 1


def predicted(seg: pydicom.Dataset, slices: list[pydicom.Dataset]) -> None:
    seg.Manufacturer = MANUFACTURER


def tiled(seg: pydicom.Dataset, slices: list[pydicom.Dataset]) -> None:
    seg.SegmentationType = "WHATEVER"


REFUSED = {
    another_series: {"mask-without-image", "annotation-reference"},
    another_image: {"annotation-reference"},
    another_source: {"annotation-geometry"},
    another_frame_of_reference: {"annotation-geometry"},
    another_patient: {"mask-without-image"},
    far_away: {"mask-elsewhere"},
    no_position: {"damaged"},
    nan_position: {"bad-geometry", "damaged", "not-understood"},
    out_of_line: {"bad-geometry"},
    huge: {"too-large"},
    cut: {"damaged"},
    unknown_segment: {"damaged"},
    many_frames: {"too-large"},
    tiled: {"unsupported"},
    predicted: {"own-prediction"},
}


@pytest.mark.parametrize("damage", REFUSED)
def test_what_does_not_fit_is_refused_and_costs_only_the_mask(
    tmp_path: Path, damage: Callable[[pydicom.Dataset, list[pydicom.Dataset]], None]
) -> None:
    slices = series(tmp_path)
    seg = segmentation(slices, {"Liver": LIVER, "Tumour": TUMOUR})
    mode = pydicom.config.settings.writing_validation_mode
    try:
        damage(seg, slices)
        seg.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    finally:
        pydicom.config.settings.writing_validation_mode = mode
    (tmp_path / "labels.csv").write_text("PatientID,label\nP1,x\n")
    ((item, _),), bad = scanned(tmp_path)
    assert (item.targets, item.label) == ({}, "x")
    ((key, reason),) = bad
    assert key == "seg.dcm"
    assert reason in REFUSED[damage]


def square(top: float, left: float, bottom: float, right: float) -> np.ndarray:
    return np.array([[top, left], [top, right], [bottom, right], [bottom, left]])


@pytest.mark.parametrize("axes", [AXIAL, SAGITTAL, TILTED])
def test_contours_are_drawn_on_their_planes_with_holes_and_keyholes(tmp_path: Path, axes: tuple[float, ...]) -> None:
    slices = series(tmp_path, axes=axes)
    outer, inner = square(0.5, 1.5, 6.5, 8.5), square(2.5, 3.5, 4.5, 6.5)
    ring = np.zeros(SHAPE, bool)
    ring[[1, 3], 1:7, 2:9] = True
    ring[[1, 3], 3:5, 4:7] = False
    keyhole = np.concatenate([outer, outer[:1], inner[:1], inner[::-1], outer[:1]])  # one line goes in and comes back
    dataset = structure_set(
        slices, {"Ring": {1: [outer, inner], 3: [keyhole]}, "Dot": {0: [square(1.5, 1.5, 2.5, 2.5)]}}
    )
    saved(dataset, tmp_path / "rt.dcm")
    ((item, sample),), bad = scanned(tmp_path)
    assert bad == []
    assert sample.names["mask"] == ("Ring", "Dot")
    assert in_patient(sample, 1) == true_places(slices, ring)
    dot = np.zeros(SHAPE, bool)
    dot[0, 2, 2] = True
    assert in_patient(sample, 2) == true_places(slices, dot)
    assert item.targets["mask"].amounts == pytest.approx({"Ring": ring.sum() * VOXEL_ML, "Dot": VOXEL_ML})


def test_overlapping_structures_are_channels_and_slices_without_contour_stay_empty(tmp_path: Path) -> None:
    slices = series(tmp_path)
    dataset = structure_set(slices, {"Body": {2: [square(-5, -5, 50, 50)]}, "Liver": {2: [square(1.5, 1.5, 3.5, 3.5)]}})
    saved(dataset, tmp_path / "rt.dcm")
    ((_, sample),), _ = scanned(tmp_path)
    assert sample.targets["mask"].shape == (2, *SHAPE)
    assert sample.targets["mask"][0].sum(axis=(1, 2)).tolist() == [0, 0, 80, 0, 0]
    assert sample.targets["mask"][1].sum() == 4


def with_data(text: str) -> Callable[[pydicom.Dataset], None]:
    def damage(dataset: pydicom.Dataset) -> None:
        dataset.ROIContourSequence[0].ContourSequence[0]._dict.pop(pydicom.tag.Tag("ContourData"), None)
        element = pydicom.dataelem.DataElement("ContourData", "OB", text.encode() + b" " * (len(text) % 2))
        element.VR = "DS"
        element._value = pydicom.multival.MultiValue(str, text.split("\\"))
        dataset.ROIContourSequence[0].ContourSequence[0].add(element)

    return damage


def off_reference(dataset: pydicom.Dataset) -> None:
    images = [contour.ContourImageSequence for contour in dataset.ROIContourSequence[0].ContourSequence]
    dataset.ROIContourSequence[0].ContourSequence[0].ContourImageSequence = images[1]


def missing_reference(dataset: pydicom.Dataset) -> None:
    image = dataset.ROIContourSequence[0].ContourSequence[0].ContourImageSequence[0]
    image.ReferencedSOPInstanceUID = generate_uid()


def very_long(dataset: pydicom.Dataset) -> None:
    with_data("\\".join(["1"] * 9_000_000))(dataset)


def no_names(dataset: pydicom.Dataset) -> None:
    dataset.StructureSetROISequence = []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (with_data("nan\\1\\1\\2\\2\\1\\3\\3\\1"), "not-finite"),
        (with_data("1e300\\1\\1\\2\\2\\1\\3\\3\\1"), "not-finite"),
        (with_data("1\\1\\1\\2\\2\\1\\3\\3"), "damaged"),
        (with_data("x\\1\\1\\2\\2\\1\\3\\3\\1"), "damaged"),
        (with_data("0\\0\\30\\9\\9\\45\\3\\3\\30"), "annotation-geometry"),  # not parallel to the slices
        (off_reference, "annotation-geometry"),
        (missing_reference, "annotation-reference"),
        (no_names, "damaged"),
        (very_long, "too-large"),
    ],
)
def test_structure_sets_that_cannot_be_used(
    tmp_path: Path, damage: Callable[[pydicom.Dataset], None], reason: str
) -> None:
    slices = series(tmp_path)
    dataset = structure_set(slices, {"Liver": {1: [square(1.5, 1.5, 3.5, 3.5)], 2: [square(1.5, 1.5, 3.5, 3.5)]}})
    damage(dataset)
    dataset.save_as(tmp_path / "rt.dcm", enforce_file_format=True)
    (tmp_path / "labels.csv").write_text("PatientID,label\nP1,x\n")
    ((item, _),), bad = scanned(tmp_path)
    assert item.targets == {}
    assert bad == [("rt.dcm", reason)]


def slow_inside(points: np.ndarray, row: float, column: float) -> bool:
    """Return whether a ray from a point to growing columns crosses the polygon an odd number of times."""
    crossings = 0
    for (r0, c0), (r1, c1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if (r0 > row) != (r1 > row):
            crossings += c0 + (row - r0) * (c1 - c0) / (r1 - r0) > column
    return crossings % 2 == 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), corners=st.integers(3, 12))
def test_polygons_are_filled_like_a_slow_oracle_fills_them(seed: int, corners: int) -> None:
    """Self-intersecting and reaching beyond the image; corners in general position, so no centre lies on an edge."""
    points = np.random.default_rng(seed).uniform(-4, 13, size=(corners, 2))
    expected = [[slow_inside(points, row, column) for column in range(9)] for row in range(8)]
    assert np.array_equal(filled(points, 8, 9), np.array(expected))
