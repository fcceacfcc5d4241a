"""Whole folders of series, by both doors: registered as they are, and imported; what was found is used or refused by name."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.client.data import dicom_annotations as annotated
from tests.client.data.dicom_files import make

from salus.client.data.dicom.deidentify import Rules, deidentify
from salus.client.data.records import ImageRecord, Quarantined, Sample
from salus.client.data.sources import open_source
from salus.client.data.sources.base import files_of
from salus.client.data.sources.dicom_series import channels_of
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import DataError

Scanned = tuple[list[tuple[ImageRecord, Sample]], list[Quarantined]]
RULES = Rules(lambda kind, value: "a" * 32, b"s" * 32)
AXES = [1, 0, 0, 0, 1, 0]


def slices(
    values: dict[int, dict[str, Any]], places: int = 6, step: float = 3.0, **common: Any
) -> list[pydicom.Dataset]:
    """Return a series that shows the number of its place plus `values`' key, under the elements of each value."""
    ramp = np.arange(64, dtype=np.int16).reshape(8, 8)
    usual = {
        "PixelSpacing": [1, 1],
        "ImageOrientationPatient": AXES,
        "SliceThickness": step,
        "FrameOfReferenceUID": "1.2.3.9",
    }
    return [
        make(
            base + place + ramp,
            **{
                "InstanceNumber": place + 1,
                "ImagePositionPatient": [0, 0, step * place],
                "SOPInstanceUID": pydicom.uid.generate_uid(),
                **usual,
                **common,
                **elements,
            },
        )
        for place in range(places)
        for base, elements in values.items()
    ]


def scanned(folder: Path, files: list[pydicom.Dataset], *, imported: bool, **options: Any) -> Scanned:
    """Write files, as they are or as an import keeps them, and return their samples and what was refused."""
    folder.mkdir(parents=True)
    order = np.random.default_rng(len(files)).permutation(len(files))
    for number, dataset in zip(order, files, strict=True):
        path = folder / f"{number:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        if imported:
            path.write_bytes(deidentify(pydicom.dcmread(path), RULES).data)
    patient = "a" * 32 if imported else "P1"
    (folder / "labels.csv").write_text(f"PatientID,label\n{patient},1\n")
    source = open_source("imported" if imported else "dicom", folder, SourceOptions(volumes=True, **options))
    items = list(source.scan())
    good = [item for item in items if isinstance(item, ImageRecord)]
    samples = [source.load(item.key) for item in good]
    for item, sample in zip(good, samples, strict=True):
        assert (item.sha256, item.pixel_sha256) == (sample.sha256, sample.pixel_sha256)
        assert item.info["channels"] == len(sample.values) == channels_of(item.key)
    bad = [item for item in items if isinstance(item, Quarantined)]
    assert len(files) == len({name for item in good for name in files_of(item.key)}) + len(
        bad
    )  # found = used + refused
    return list(zip(good, samples, strict=True)), bad


def first_voxels(found: Scanned) -> list[list[list[float]]]:
    return sorted(sample.measured[:, :, 0, 0].tolist() for _, sample in found[0])


def ramp(*bases: float) -> list[list[float]]:
    return [[base + place for place in range(6)] for base in bases]


@pytest.mark.parametrize("imported", [False, True])
def test_two_echoes_are_two_volumes_or_two_channels(tmp_path: Path, imported: bool) -> None:
    series = slices({1000: {"EchoTime": 10}, 2000: {"EchoTime": 80}})
    apart = scanned(tmp_path / "apart", series, imported=imported)
    assert first_voxels(apart) == [ramp(1000), ramp(2000)]
    joined = scanned(tmp_path / "joined", series, imported=imported, channels="echo")
    assert first_voxels(joined) == [ramp(1000, 2000)]
    ((item, sample),) = joined[0]
    assert sample.values.shape == (2, 6, 8, 8)
    assert (len(files_of(item.key)), json.loads(item.key)[-1]) == (12, "\0channels=2")
    other = scanned(tmp_path / "other", series, imported=imported, channels="time")  # nothing differs in time
    assert first_voxels(other) == [ramp(1000), ramp(2000)]


DIMENSIONS: dict[str, list[dict[str, Any]]] = {
    "echo": [{"EchoTime": value} for value in (10, 80)],
    "b-value": [{"DiffusionBValue": value} for value in (0.0, 1000.0)],
    "time": [{"TemporalPositionIdentifier": value} for value in (1, 2, 3)],
    "acquisition": [{"AcquisitionNumber": value} for value in (1, 2)],
    "kind": [{"ImageType": ["ORIGINAL", "PRIMARY", word]} for word in ("M", "P")],
    "kernel": [{"ConvolutionKernel": word} for word in ("B30f", "B70f")],
    "contrast": [{}, {"ContrastBolusAgent": "Omnipaque"}],
    "tube-voltage": [{"KVP": value} for value in (80, 140)],
    "frame-time": [{"FrameReferenceTime": value} for value in (500.0, 1500.0)],
}


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(DIMENSIONS)), min_size=1, max_size=2, unique=True), st.booleans(), st.data())
def test_every_value_of_every_dimension_is_its_own_volume_by_both_doors(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], imported: bool, data: st.DataObject
) -> None:
    values: dict[int, dict[str, Any]] = {0: {}}
    for name in names:
        values = {
            base * 10 + (index + 1) * 100: {**elements, **mine}
            for base, elements in values.items()
            for index, mine in enumerate(DIMENSIONS[name])
        }
    series = slices(values)
    folder = tmp_path_factory.mktemp("series")
    found = scanned(folder / "apart", series, imported=imported)
    assert first_voxels(found) == sorted(ramp(base) for base in values)
    name = data.draw(st.sampled_from(names))
    joined = scanned(folder / "joined", series, imported=imported, channels=name)
    groups: dict[str, list[int]] = {}
    for base, elements in values.items():
        others = {key: value for key, value in elements.items() if all(key not in mine for mine in DIMENSIONS[name])}
        groups.setdefault(str(others), []).append(base)
    assert sorted(map(sorted, first_voxels(joined))) == sorted(ramp(*sorted(bases)) for bases in groups.values())


def test_channels_of_words_have_one_order_at_both_doors(tmp_path: Path) -> None:
    """An import hides a kernel's name, and with it the order of the names."""
    for number, kernels in enumerate((("B30f", "B70f"), ("B70f", "B30f"), ("Br40", "Hr60"))):
        series = slices({100 * (i + 1): {"ConvolutionKernel": kernel} for i, kernel in enumerate(kernels)})
        found = [
            first_voxels(scanned(tmp_path / f"{number}{imported}", series, imported=imported, channels="kernel"))
            for imported in (False, True)
        ]
        assert found[0] == found[1]
        assert len(found[0]) == 1


@pytest.mark.parametrize("imported", [False, True])
def test_an_odd_file_costs_itself_and_is_refused_by_its_name(tmp_path: Path, imported: bool) -> None:
    good = slices({1000: {}})
    (localizer,) = slices({0: {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}}, places=1)
    (coarse,) = slices({0: {"PixelSpacing": [2, 2]}}, places=1)
    (unplaced,) = slices({0: {"ImagePositionPatient": None}}, places=1)
    copy = slices({1000: {}})[2]
    found, bad = scanned(tmp_path / "x", [*good, localizer, coarse, unplaced, copy], imported=imported)
    assert first_voxels((found, bad)) == [ramp(1000)]
    details = {item.detail for item in bad}
    assert Counter(item.reason for item in bad) == {"odd-slice": 2, "no-position": 1, "duplicate": 1}
    assert any("ImageOrientationPatient" in detail for detail in details)
    assert any("PixelSpacing" in detail for detail in details)


def test_slices_that_nothing_tells_apart_are_refused_whatever_their_names(tmp_path: Path) -> None:
    found, bad = scanned(tmp_path / "x", slices({1000: {}, 2000: {}}), imported=False)
    assert not found
    assert Counter(item.reason for item in bad) == {"same-place": 12}


def test_a_mask_goes_to_the_volume_that_it_refers_to(tmp_path: Path) -> None:
    """Of two echoes one was segmented; a segmentation of the whole series belongs to both."""
    folder = tmp_path / "x"
    first = annotated.series(folder, EchoTime=10)
    second = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    for number, image in enumerate(second):
        image.EchoTime, image.SOPInstanceUID = 80, pydicom.uid.generate_uid()
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.save_as(folder / f"second-{number}.dcm", enforce_file_format=True)
    mask = np.zeros(annotated.SHAPE, bool)
    mask[1:3, 2:5, 3:6] = True
    annotated.saved(annotated.segmentation(second, {"Lesion": mask}), folder / "seg.dcm")
    (folder / "labels.csv").write_text("PatientID,label\nP1,1\n")
    source = open_source("dicom", folder, SourceOptions(volumes=True))
    items = list(source.scan())
    assert not [item for item in items if isinstance(item, Quarantined)]
    amounts = {"second" in files_of(item.key)[0]: item.targets for item in items if isinstance(item, ImageRecord)}
    voxel_ml = np.prod(annotated.SPACING) * annotated.STEP / 1000
    assert not amounts[False]
    assert amounts[True]["mask"].amounts == {"Lesion": pytest.approx(18 * voxel_ml)}
    for item in items:
        assert isinstance(item, ImageRecord)
        assert ("mask" in source.load(item.key).targets) == bool(item.targets)
    both = annotated.segmentation(first, {"Lesion": mask})
    both.ReferencedSeriesSequence[0].ReferencedInstanceSequence = [
        annotated.referenced(image) for image in (*first, *second)
    ]
    annotated.saved(both, folder / "seg.dcm")
    items = list(open_source("dicom", folder, SourceOptions(volumes=True)).scan())
    assert [list(item.targets) for item in items if isinstance(item, ImageRecord)] == [["mask"], ["mask"]]


def test_channels_need_volumes_and_a_known_dimension(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("PatientID,label\nP1,1\n")
    with pytest.raises(DataError, match="--volumes"):
        open_source("dicom", tmp_path, SourceOptions(channels="echo"))
    with pytest.raises(DataError, match="b-value"):
        open_source("dicom", tmp_path, SourceOptions(volumes=True, channels="ecco"))
