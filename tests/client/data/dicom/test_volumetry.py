"""Volumes in millilitres of objects of exactly known shape; what headers say beside the positions must not matter."""

import io
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.client.data import dicom_annotations as annotated
from tests.client.data.dicom.test_annotations import report, rows_of, source_image
from typer.testing import CliRunner

from salus.cli import app
from salus.client.commands.labels import write_labels
from salus.client.data.dicom.annotations import annotations_of
from salus.client.data.dicom.volumetry import contour_volumes, distance_mm, segment_volumes
from salus.client.data.records import ImageRecord
from salus.client.data.sources import open_source
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import DataError, UnreadableImage

SHAPE = (9, 8, 10)
PIXEL_ML = annotated.SPACING[0] * annotated.SPACING[1] / 1000.0


def mask_of(rows: slice = slice(2, 6)) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[rows, 2:5, 3:7] = True  # 12 pixels in each plane
    return mask


def measures(dataset: pydicom.Dataset) -> pydicom.Dataset:
    return dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([1.0, 2.5, 4.0]),
    st.sampled_from([0.5, 1.0, 2.0, 5.0]),
    st.sampled_from([None, 0.5, 1.0, 5.0, -4.0]),
    st.sampled_from(["BINARY", "LABELMAP", "FRACTIONAL"]),
    st.sampled_from([annotated.AXIAL, annotated.SAGITTAL, annotated.TILTED]),
    st.integers(3, 5),
)
def test_a_segments_volume_comes_from_the_places_of_its_planes(
    tmp_path_factory: pytest.TempPathFactory,
    step: float,
    thickness: float,
    stated: float | None,
    kind: str,
    axes: Any,
    planes: int,
) -> None:
    folder = tmp_path_factory.mktemp("x")
    slices = annotated.series(folder, SHAPE, axes)
    normal = np.cross(axes[:3], axes[3:])
    for number, image in enumerate(slices):
        image.ImagePositionPatient = [float(value) for value in np.array([-7.0, 11.0, 30.0]) + normal * step * number]
        image.SliceThickness = thickness
    made = annotated.segmentation(slices, {"Lesion": mask_of(slice(2, 2 + planes))}, kind)
    if stated is None:
        del measures(made).SpacingBetweenSlices
    else:
        measures(made).SpacingBetweenSlices = stated
    measures(made).SliceThickness = thickness
    found = segment_volumes(_again(made))
    assert found == {"Lesion": pytest.approx(planes * 12 * PIXEL_ML * step, rel=1e-4)}


def _again(dataset: pydicom.Dataset) -> pydicom.Dataset:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(buffer.getvalue()))


def test_labels_and_catalogue_say_the_same(tmp_path: Path) -> None:
    slices = annotated.series(tmp_path / "x", SHAPE)
    masks = {"Lesion": mask_of(), "Node": mask_of(slice(7, 8))}
    annotated.saved(annotated.segmentation(slices, masks), tmp_path / "x" / "seg.dcm")
    (item,) = open_source("dicom", tmp_path / "x", SourceOptions(volumes=True)).scan()
    assert isinstance(item, ImageRecord)
    volumes = segment_volumes(pydicom.dcmread(tmp_path / "x" / "seg.dcm"))
    assert item.targets["mask"].amounts == {name: pytest.approx(value) for name, value in volumes.items()}
    assert volumes["Lesion"] == pytest.approx(4 * 12 * PIXEL_ML * annotated.STEP)


@pytest.mark.parametrize(("places", "stated", "thickness", "wanted"), [
    ([0, 2.5, 5, 7.5], 0.0, 5.0, 2.5),  # overlapping slices
    ([0, 5, 10], 1.0, 1.0, 5.0),  # gaps between slices, a thickness copied into the spacing
    ([0, 5, 10, 60, 65], 0.0, 1.0, 5.0),  # two lesions
    ([0, 40], 2.5, 5.0, 2.5),  # planes left out between two
    ([0, 40], 0.0, 5.0, None),  # ... of which nothing says how far their neighbours are
    ([0, 5], 0.0, 2.5, 5.0),
    ([7], 2.0, 3.0, 3.0),
    ([7], 2.0, 0.0, 2.0),
    ([7], 0.0, 0.0, None),
    ([0, 2.5, 5, 10, 15], 0.0, 2.5, None),  # a head CT with two distances
])  # fmt: skip
def test_the_distance_of_planes(places: list[float], stated: float, thickness: float, wanted: float | None) -> None:
    if wanted is None:
        with pytest.raises(UnreadableImage) as caught:
            distance_mm(np.array(places), stated, thickness)
        assert caught.value.reason == "bad-geometry"
    else:
        assert distance_mm(np.array(places), stated, thickness) == pytest.approx(wanted)


BOX = np.array([[1.0, 1.0], [1.0, 6.0], [5.0, 6.0], [5.0, 1.0]])  # 20 pixels of 3 mm2
HOLE = np.array([[2.0, 2.0], [2.0, 4.0], [4.0, 4.0], [4.0, 2.0]])  # 4 pixels


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([annotated.AXIAL, annotated.SAGITTAL, annotated.TILTED]),
    st.integers(2, 5),
    st.booleans(),
    st.sampled_from([1, -1]),
)
def test_a_structure_sets_volume_comes_from_its_contours(
    tmp_path_factory: pytest.TempPathFactory, axes: Any, planes: int, hole: bool, turn: int
) -> None:
    slices = annotated.series(tmp_path_factory.mktemp("x"), SHAPE, axes)
    lesion = {place: [BOX[::turn], *([HOLE] if hole else [])] for place in range(2, 2 + planes)}
    made = annotated.structure_set(slices, {"Lesion": lesion, "Empty": {}, "Body": {p: [BOX + 1] for p in range(9)}})
    found = contour_volumes(_again(made))
    assert found["Lesion"] == pytest.approx((20 - 4 * hole) * planes * PIXEL_ML * annotated.STEP, rel=1e-3)
    assert found["Body"] == pytest.approx(20 * 9 * PIXEL_ML * annotated.STEP, rel=1e-3)
    assert found["Empty"] == 0.0
    studies = {item.study for item in annotations_of(_again(made))}
    assert studies == {slices[0].StudyInstanceUID}


def test_a_structure_set_that_cannot_be_measured_is_refused_by_its_true_name(tmp_path: Path) -> None:
    slices = annotated.series(tmp_path, SHAPE)
    empty = annotated.structure_set(slices, {"Lesion": {}})
    alone = annotated.structure_set(slices, {"Lesion": {2: [BOX]}})
    twisted = annotated.structure_set(slices, {"Lesion": {2: [BOX], 3: [BOX]}})
    contour = twisted.ROIContourSequence[0].ContourSequence[1]
    contour.ContourData = [*contour.ContourData[:2], 77.0, *contour.ContourData[3:]]
    for dataset, reason in ((empty, "no-contours"), (alone, "bad-geometry"), (twisted, "annotation-geometry")):
        with pytest.raises(UnreadableImage) as caught:
            contour_volumes(_again(dataset))
        assert caught.value.reason == reason
    alone.ROIContourSequence[0].ContourSequence[0].ContourSlabThickness = 4.0
    assert contour_volumes(_again(alone))["Lesion"] == pytest.approx(20 * PIXEL_ML * 4.0)


def test_files_that_labels_cannot_use_are_named_with_the_error_and_with_the_counts(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    slices = annotated.series(tmp_path / "images", SHAPE)
    folder.mkdir()
    annotated.saved(annotated.structure_set(slices, {"Lesion": {}}), folder / "rt.dcm")
    annotated.saved(slices[0], folder / "image.dcm")
    with pytest.raises(DataError) as caught:
        write_labels(folder, tmp_path / "out.csv", "Lesion", None)
    assert "2 file(s) were not used" in str(caught.value)
    assert "no-contours" in str(caught.value)
    assert "no-annotation" in str(caught.value)
    annotated.saved(annotated.segmentation(slices, {"Lesion": mask_of()}, "LABELMAP"), folder / "map.dcm")
    counts = write_labels(folder, tmp_path / "out.csv", "Lesion", None)
    assert counts == {
        "studies": 1, "unit": "ml", "files used": 1, "not used: no-annotation": 1, "not used: no-contours": 1,
    }  # fmt: skip
    assert sum(int(count) for name, count in counts.items() if name.startswith(("files", "not"))) == 3
    (row,) = rows_of(tmp_path / "out.csv")
    assert float(row["label"]) == pytest.approx(48 * PIXEL_ML * annotated.STEP)


def test_numbers_in_units_of_one_kind_are_converted_and_others_refused(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    for number, (value, code) in enumerate((("3", "mm"), ("1.2", "cm"))):
        image = source_image(tmp_path / str(number))
        image.StudyInstanceUID = hd.UID()
        dataset = pydicom.dcmread(io.BytesIO(report(image, 1.0)))
        _set_value(dataset, value, code)
        annotated.saved(dataset, folder / f"{number}.dcm")
    counts = write_labels(folder, tmp_path / "out.csv", "Diameter", None)
    assert counts["unit"] == "mm"
    assert sorted(float(row["label"]) for row in rows_of(tmp_path / "out.csv")) == [3.0, 12.0]
    _set_value(dataset, "1", "{SUVbw}g/ml")
    annotated.saved(dataset, folder / "1.dcm")
    problem = CliRunner().invoke(app, ["dataset", "labels", str(folder), str(tmp_path / "o.csv"), "--name", "Diameter"])
    assert "'mm', '{SUVbw}g/ml'" in str(problem.exception)


def _set_value(item: pydicom.Dataset, value: str, code: str) -> None:
    """Set the first measurement below an item of a report."""
    for child in item.get("ContentSequence") or []:
        if child.get("ValueType") == "NUM":
            measured = child.MeasuredValueSequence[0]
            measured.NumericValue = value
            measured.MeasurementUnitsCodeSequence[0].CodeValue = code
        _set_value(child, value, code)
