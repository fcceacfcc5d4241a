"""Enhanced multi-frame objects: each frame means what a classic image with the same elements means, also after an import."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from tests.client.data.dicom.enhanced import as_bytes, enhanced, item
from tests.client.data.dicom_annotations import SHAPE, saved, segmentation, series, structure_set
from tests.client.data.dicom_files import make

from salus.client.data.dicom.decoder_cleaning import _clean
from salus.client.data.dicom.deidentify import Rules
from salus.client.data.dicom.picture import DicomImage, guarded, read_image, read_images
from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.sources import open_source
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import UnreadableImage

RULES = Rules(lambda kind, value: f"{kind}-{value}", b"secret" * 8)
CLASSIC = {
    "EffectiveEchoTime": "EchoTime",
    "FrameType": "ImageType",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
}
MAY_BE_SHARED = (
    "RescaleSlope", "WindowCenter", "PixelSpacing", "ImageOrientationPatient", "EffectiveEchoTime", "FrameType",
)  # fmt: skip
AXIAL = [1, 0, 0, 0, 1, 0]


def alike(one: DicomImage, other: DicomImage) -> None:
    np.testing.assert_allclose(one.values, other.values, atol=1e-6)
    np.testing.assert_allclose(one.intensities, other.intensities, rtol=1e-6)
    assert one.window == other.window
    assert one.geometry == other.geometry
    assert one.dimensions == other.dimensions
    assert one.thickness_mm == other.thickness_mm
    assert one.inverted == other.inverted


numbers = st.integers(-500, 500).map(lambda value: value / 8)


@st.composite
def frame(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "ImagePositionPatient": [draw(numbers) for _ in range(3)],
        "RescaleSlope": draw(st.sampled_from([1, 0.5, 2.25])),
        "RescaleIntercept": draw(st.sampled_from([0, -1024, 3.5])),
        "WindowCenter": draw(numbers),
        "WindowWidth": draw(st.integers(2, 400)),
        "EffectiveEchoTime": draw(st.sampled_from([2.5, 4.5])),
        "TemporalPositionIndex": draw(st.integers(1, 3)),
        "FrameType": draw(st.sampled_from([["ORIGINAL", "PRIMARY", "M"], ["DERIVED", "PRIMARY", "P"]])),
        "PixelSpacing": draw(st.sampled_from([[1, 1], [0.5, 0.75]])),
        "SliceThickness": draw(st.sampled_from([1, 2.5])),
        "ImageOrientationPatient": draw(st.sampled_from([AXIAL, [0, 1, 0, 0, 0, -1]])),
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(frame(), min_size=1, max_size=4), st.sets(st.sampled_from(MAY_BE_SHARED)), st.booleans())
def test_a_frame_means_what_a_classic_image_means_wherever_its_elements_are(
    frames: list[dict[str, Any]], together: set[str], signed: bool
) -> None:
    shared = {}
    groups = {"RescaleSlope": ("RescaleSlope", "RescaleIntercept"), "WindowCenter": ("WindowCenter", "WindowWidth"),
              "PixelSpacing": ("PixelSpacing", "SliceThickness")}  # fmt: skip
    for first in together:
        for keyword in groups.get(first, (first,)):
            shared[keyword] = frames[0][keyword]
            for values in frames:
                values[keyword] = shared[keyword]
    own = [{keyword: value for keyword, value in values.items() if keyword not in shared} for values in frames]
    pixels = np.random.default_rng(0).integers(0, 200, (len(frames), 6, 8)).astype(np.int16 if signed else np.uint16)
    data = as_bytes(enhanced(pixels, own, shared))
    for stored in (data, _clean(data, RULES).data):
        images = read_images(stored, "x")
        assert len(images) == len(frames)
        for number, (image, values) in enumerate(zip(images, frames, strict=True)):
            classic = {CLASSIC.get(keyword, keyword): value for keyword, value in values.items()}
            alike(image, read_image(as_bytes(make(pixels[number], Modality="MR", **classic)), "x"))
            assert image.instance_number == number + 1
    assert len({image.sha256 for image in images}) == len(frames)


def volume_file(echoes: tuple[float, ...] = (2.5, 4.5), places: int = 4, seed: int = 0, **attributes: Any) -> bytes:
    """Return an object with a volume of each echo, its frames in random order; voxels are 100 * echo number + place."""
    every = [(echo, place) for echo in range(len(echoes)) for place in range(places)]
    random.Random(seed).shuffle(every)
    pixels = np.stack([np.full((4, 5), 100 * echo + place, np.uint16) for echo, place in every])
    frames = [{"ImagePositionPatient": [0, 0, 3.0 * place], "EffectiveEchoTime": echoes[echo]} for echo, place in every]
    shared = {"PixelSpacing": [1, 2], "SliceThickness": 3, "ImageOrientationPatient": AXIAL}
    return as_bytes(enhanced(pixels, frames, shared, **attributes))


def scanned(folder: Path, **options: Any) -> tuple[Any, list[ImageRecord], list[Quarantined]]:
    (folder / "labels.csv").write_text("PatientID,label\nP1,1\n")
    source = open_source("dicom", folder, SourceOptions(**options), None)
    items = [one for one in source.scan() if one.key != "labels.csv"]
    return (
        source,
        [one for one in items if isinstance(one, ImageRecord)],
        [one for one in items if isinstance(one, Quarantined)],
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(2, 5), st.integers(0, 10**6))
def test_frames_become_volumes_whatever_their_order(
    tmp_path_factory: pytest.TempPathFactory, echoes: int, places: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("in")
    (folder / "a.dcm").write_bytes(volume_file(tuple(2.5 + number for number in range(echoes)), places, seed))
    source, records, refused = scanned(folder, volumes=True)
    assert len(records) == echoes
    assert not refused
    assert len({record.sha256 for record in records}) == echoes
    found = [source.load(record.key) for record in records]
    for sample, record in zip(found, records, strict=True):
        assert sample.sha256 == record.sha256
        assert sample.measured.shape == (1, places, 4, 5)
        np.testing.assert_array_equal(np.diff(sample.measured[0, :, 0, 0]), 1)
        assert sample.spacing_mm == (3, 1, 2)
    assert sorted(sample.measured[0, 0, 0, 0] for sample in found) == [100 * echo for echo in range(echoes)]


def test_echoes_of_one_file_become_channels(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(volume_file())
    source, records, _ = scanned(tmp_path, volumes=True, channels="echo")
    assert source.load(records[0].key).measured[:, :, 0, 0].tolist() == [[0, 1, 2, 3], [100, 101, 102, 103]]


def test_without_volumes_the_reason_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(volume_file())
    _, records, refused = scanned(tmp_path)
    assert not records
    assert [(one.reason, "--volumes" in one.detail) for one in refused] == [("several-frames", True)]


def test_one_series_in_several_enhanced_files_is_one_volume(tmp_path: Path) -> None:
    shared = {"PixelSpacing": [1, 1], "ImageOrientationPatient": AXIAL}
    for name, places in (("a", (0, 2)), ("b", (3, 1))):
        pixels = np.stack([np.full((4, 4), place, np.uint16) for place in places])
        frames = [{"ImagePositionPatient": [0, 0, place]} for place in places]
        (tmp_path / f"{name}.dcm").write_bytes(as_bytes(enhanced(pixels, frames, shared)))
    source, records, refused = scanned(tmp_path, volumes=True)
    assert (len(records), refused) == (1, [])
    assert source.load(records[0].key).measured[0, :, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda d: d.PerFrameFunctionalGroupsSequence.pop(), "PerFrameFunctionalGroupsSequence"),
        (lambda d: setattr(d, "NumberOfFrames", 10**6), "NumberOfFrames"),
        (lambda d: d.SharedFunctionalGroupsSequence.append(Dataset()), "SharedFunctionalGroupsSequence"),
        (lambda d: setattr(d.PerFrameFunctionalGroupsSequence[1], "PlanePositionVolumeSequence", [Dataset()]),
         "PlanePositionVolumeSequence"),
        (lambda d: setattr(d.PerFrameFunctionalGroupsSequence[1], "USImageDescriptionSequence",
                           [item({"RescaleSlope": 2}).PixelValueTransformationSequence[0]]), "RescaleSlope"),
        (lambda d: d.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence.append(
            item({"ImagePositionPatient": [1, 2, 3]}).PlanePositionSequence[0]), "PlanePositionSequence"),
    ],
)  # fmt: skip
def test_groups_that_are_not_understood_are_refused_by_name_at_both_doors(change: Any, name: str) -> None:
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(volume_file()))
    change(dataset)
    data = as_bytes(dataset)
    for door in (lambda: read_images(data, "x"), lambda: _clean(data, RULES)):
        with pytest.raises(UnreadableImage, match=name) as caught:
            door()
        assert caught.value.reason == "not-understood"


def test_no_canary_in_the_groups_survives_an_import() -> None:
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(volume_file(PatientName="CANARY^Name", PatientID="CANARY")))
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.FrameContentSequence = [Dataset()]
        group.FrameContentSequence[0].FrameComments = "CANARY"
        group.FrameContentSequence[0].FrameLabel = "CANARY"
        group.PlanePositionSequence[0].add_new(0x00111001, "LO", "CANARY")
        group.add_new(0x00091001, "LO", "CANARY")
        group.MRImageFrameTypeSequence = [Dataset()]
        group.MRImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "CANARY", "M"]
        group.ReferencedImageSequence = [Dataset()]
        group.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "1.2.826.0.1.999"
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.CTReconstructionSequence = [Dataset()]
    shared.CTReconstructionSequence[0].ConvolutionKernel = "CANARY"
    clean = _clean(as_bytes(dataset), RULES).data
    assert b"CANARY" not in clean.replace(b"patient-CANARY", b"")
    assert b"1.2.826.0.1.999" not in clean
    assert [image.dimensions["kind"] for image in read_images(clean, "x")] == ["ORIGINAL/M"] * 8


def test_damage_costs_one_file_and_neither_hangs_nor_grows() -> None:
    whole = volume_file()
    chance = random.Random(13)
    reasons = set()
    for number in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(132, len(data))] = chance.randrange(256)
        if number % 5 == 0:
            data = data[: chance.randrange(len(data))]
        for door in (lambda data=data: read_images(bytes(data), "x"), lambda data=data: _clean(bytes(data), RULES)):
            try:
                guarded("x", door)
            except UnreadableImage as problem:
                reasons.add(problem.reason)
    assert "damaged" in reasons


def test_a_legacy_converted_object_has_the_planes_of_its_slices_and_is_read_as_by_simpleitk(tmp_path: Path) -> None:
    slices = [
        make(
            np.full((4, 5), 10 * place, np.int16) + np.arange(5, dtype=np.int16),
            SOPClassUID="1.2.840.10008.5.1.4.1.1.2",
            SOPInstanceUID=f"1.2.3.{place + 1}",
            FrameOfReferenceUID="1.2.3.9",
            PatientName="",
            PatientBirthDate="",
            PatientSex="O",
            StudyDate="20200101",
            StudyTime="120000",
            StudyID="1",
            AccessionNumber="",
            SeriesNumber=1,
            InstanceNumber=place + 1,
            ReferringPhysicianName="",
            Manufacturer="X",
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            PixelSpacing=[1, 2],
            SliceThickness=3,
            ImageOrientationPatient=AXIAL,
            ImagePositionPatient=[1, 2, 3.0 * place],
            RescaleSlope=2,
            RescaleIntercept=-100 - place,
            RescaleType="HU",
            WindowCenter=0,
            WindowWidth=100,
        )
        for place in (2, 0, 3, 1)
    ]
    converted = LegacyConvertedEnhancedCTImage(slices, "1.2.3.4.5", 2, "1.2.3.4.6", 1)
    path = tmp_path / "a.dcm"
    converted.save_as(path, enforce_file_format=True)
    found = {image.geometry.position: image for image in read_images(path.read_bytes(), "x")}
    for one in slices:
        classic = read_image(as_bytes(one), "x")
        mine = found[classic.geometry.position]
        np.testing.assert_array_equal(mine.intensities, classic.intensities)
        assert (mine.window, mine.geometry, mine.thickness_mm) == (classic.window, classic.geometry, 3)
    again = {image.geometry.position: image for image in read_images(_clean(path.read_bytes(), RULES).data, "x")}
    assert all((again[place].intensities == image.intensities).all() for place, image in found.items())


def test_an_enhanced_volume_lies_where_simpleitk_says(tmp_path: Path) -> None:
    places = np.arange(5)
    pixels = np.random.default_rng(1).integers(0, 500, (5, 4, 6)).astype(np.uint16)
    shared = {"PixelSpacing": [1.5, 2], "SliceThickness": 3, "ImageOrientationPatient": AXIAL, "RescaleSlope": 2,
              "RescaleIntercept": -7}  # fmt: skip
    frames = [{"ImagePositionPatient": [4, 5, 3.0 * place]} for place in places]
    (tmp_path / "a.dcm").write_bytes(as_bytes(enhanced(pixels, frames, shared)))
    source, records, _ = scanned(tmp_path, volumes=True)
    sample = source.load(records[0].key)
    image = SimpleITK.ReadImage(str(tmp_path / "a.dcm"))
    np.testing.assert_allclose(sample.measured[0], SimpleITK.GetArrayFromImage(image))
    assert sample.spacing_mm == image.GetSpacing()[::-1]
    np.testing.assert_allclose(sample.affine[:3, 3], image.GetOrigin())


@pytest.mark.parametrize("kind", ["segmentation", "structure set"])
def test_masks_of_an_enhanced_object_lie_where_they_were_drawn(tmp_path: Path, kind: str) -> None:
    slices = series(tmp_path / "classic", RescaleSlope=1, RescaleIntercept=0, RescaleType="HU", Manufacturer="X",
                    ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], StudyTime="120000", StudyID="1",
                    SOPClassUID="1.2.840.10008.5.1.4.1.1.2")  # fmt: skip
    converted = LegacyConvertedEnhancedCTImage(slices[::-1], slices[0].SeriesInstanceUID, 1, "1.2.3.4.6", 1)
    for one in slices:
        one.SOPInstanceUID = converted.SOPInstanceUID
    folder = tmp_path / "in"
    folder.mkdir()
    converted.save_as(folder / "image.dcm", enforce_file_format=True)
    mask = np.zeros(SHAPE, bool)
    mask[1:4, 2:5, 3:7] = True  # the same from both ends
    if kind == "segmentation":
        saved(segmentation([converted], {"lesion": mask}), folder / "mask.dcm")
    else:
        corners = np.array([(1.5, 2.5), (1.5, 6.5), (4.5, 6.5), (4.5, 2.5)])
        saved(structure_set(slices, {"lesion": {place: [corners] for place in (1, 2, 3)}}), folder / "mask.dcm")
    source = open_source("dicom", folder, SourceOptions(volumes=True), None)
    items = list(source.scan())
    assert [type(item).__name__ for item in items] == ["ImageRecord"], items
    np.testing.assert_array_equal(source.load(items[0].key).targets["mask"][..., :, :, :].reshape(SHAPE) > 0, mask)


def test_a_frame_that_fits_nowhere_costs_itself_and_is_counted(tmp_path: Path) -> None:
    pixels = np.stack([np.full((4, 4), place, np.uint16) for place in range(5)])
    frames = [{"ImagePositionPatient": [0, 0, place]} for place in range(4)]
    frames.append({"ImagePositionPatient": [0, 0, 400]})
    shared = {"PixelSpacing": [1, 1], "ImageOrientationPatient": AXIAL}
    (tmp_path / "a.dcm").write_bytes(as_bytes(enhanced(pixels, frames, shared)))
    source, records, refused = scanned(tmp_path, volumes=True)
    assert (len(records), refused) == (1, [])
    assert records[0].info["frames_left_out"] == 1
    assert source.load(records[0].key).measured[0, :, 0, 0].tolist() == [0, 1, 2, 3]
