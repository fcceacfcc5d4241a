"""Clips are sequences of frames with their times, at both doors; SPECT volumes lie where their detector says."""

import contextlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset
from tests.client.data.dicom.enhanced import as_bytes, enhanced
from tests.client.data.dicom_files import make

from salus.client.data.dicom.decoder_cleaning import _clean
from salus.client.data.dicom.deidentify import PixelMask, Rules
from salus.client.data.dicom.kinds import STORAGE
from salus.client.data.dicom.picture import guarded, read_image, read_images
from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.sources import open_source
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import DataError, UnreadableImage

MASK = PixelMask("OTHER", 6, 8, ((0, 0, 1, 1),))
RULES = Rules(lambda kind, value: f"{kind}-{value}", b"secret" * 8, (MASK,))
TIME, TIMES = 0x00181063, 0x00181065


def clip(frames: int, colour: bool, **attributes: Any) -> FileDataset:
    """Return an ultrasound clip in which every value names its frame."""
    pixels = np.random.default_rng(3).integers(0, 200, (frames, 6, 8, 3 if colour else 1)).astype(np.uint8)
    pixels[:, 0, 0] = 0
    dataset = make(pixels[..., 0], SOPClassUID=STORAGE + "3.1", Modality="US", **attributes)
    if colour:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    data = pixels.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    return dataset


def scanned(folder: Path, **options: Any) -> tuple[Any, list[ImageRecord], list[Quarantined]]:
    (folder / "labels.csv").write_text("PatientID,label\nP1,1\n")
    source = open_source("dicom", folder, SourceOptions(**options), None)
    items = [one for one in source.scan() if one.key != "labels.csv"]
    return (
        source,
        [one for one in items if isinstance(one, ImageRecord)],
        [one for one in items if isinstance(one, Quarantined)],
    )


times = st.floats(0.5, 500).map(lambda value: round(value, 3))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.booleans(), st.one_of(st.none(), times, st.lists(times, min_size=6, max_size=6)))
def test_frames_and_times_are_the_same_at_both_doors(frames: int, colour: bool, step: Any) -> None:
    expected: tuple[float, ...] = ()
    attributes: dict[str, Any] = {}
    if isinstance(step, float):
        attributes, expected = {"FrameTime": step, "FrameIncrementPointer": TIME}, (step,) * (frames - 1)
    elif step:
        attributes = {"FrameTimeVector": [0, *step[: frames - 1]], "FrameIncrementPointer": TIMES}
        expected = tuple(step[: frames - 1])
    data = as_bytes(clip(frames, colour, **attributes))
    plain, imported = read_image(data, "x"), read_image(_clean(data, RULES).data, "x")
    assert plain.is_clip
    assert plain.intervals_ms == imported.intervals_ms == pytest.approx(expected)
    np.testing.assert_array_equal(plain.intensities, imported.intensities)
    np.testing.assert_array_equal(plain.values, imported.values)


@pytest.mark.parametrize("colour", [False, True])
def test_a_clip_is_a_sample_whose_first_axis_is_time(tmp_path: Path, colour: bool) -> None:
    clip(5, colour, FrameTime=40, FrameIncrementPointer=TIME).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    source, records, refused = scanned(tmp_path)
    assert not refused
    assert (records[0].info["frames"], records[0].info["frame_ms"]) == (5, 40)
    sample = source.load(records[0].key)
    assert sample.values.shape == (3 if colour else 1, 5, 6, 8)
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "a.dcm"))).astype(np.float32)
    measured = np.moveaxis(sample.measured * 255, 0, -1) if colour else sample.measured[0]
    np.testing.assert_allclose(measured, expected, atol=1e-4)


@pytest.mark.parametrize(("choice", "count"), [("first", 1), ("each", 4)])
def test_frames_of_a_clip_become_images_if_asked_for(tmp_path: Path, choice: str, count: int) -> None:
    clip(4, True).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    whole = read_image((tmp_path / "a.dcm").read_bytes(), "x").values
    source, records, _ = scanned(tmp_path, frames=choice)
    assert len(records) == count
    for number, record in enumerate(records):
        sample = source.load(record.key)
        np.testing.assert_array_equal(sample.values, whole[number])
        assert sample.sha256 == record.sha256
        assert sample.pixel_sha256 == record.pixel_sha256
    assert len({record.sha256 for record in records}) == count


def test_a_clip_is_no_volume_and_other_words_name_no_frames(tmp_path: Path) -> None:
    clip(4, False).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert [item.reason for item in scanned(tmp_path, volumes=True)[2]] == ["clip"]
    with pytest.raises(DataError, match="first"):
        scanned(tmp_path, frames="last")


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"FrameTimeVector": [0, 5], "FrameIncrementPointer": TIMES}, "FrameTimeVector"),
        ({"FrameTimeVector": [0, 5, -5, 5], "FrameIncrementPointer": TIMES}, "FrameTimeVector"),
        ({"FrameIncrementPointer": TIME}, "FrameTime"),
        ({"FrameTime": -1, "FrameIncrementPointer": TIME}, "FrameTime"),
    ],
)
def test_times_that_are_not_understood_are_refused_by_name_at_both_doors(attributes: dict[str, Any], name: str) -> None:
    data = as_bytes(clip(4, False, **attributes))
    for door in (lambda: read_image(data, "x"), lambda: _clean(data, RULES)):
        with pytest.raises(UnreadableImage, match=name):
            door()


def spect(spacing: float, slots: int = 1, places: int = 4) -> FileDataset:
    """Return a reconstructed SPECT volume of `slots` time slots, whose values are 10 * slot + slice."""
    pixels = np.stack(
        [np.full((3, 4), 10 * slot + place, np.uint16) for slot in range(slots) for place in range(places)]
    )
    detector = Dataset()
    detector.ImagePositionPatient = [-10, -20, 90]
    detector.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset = make(
        pixels,
        SOPClassUID=STORAGE + "20",
        Modality="NM",
        ImageType=["ORIGINAL", "PRIMARY", "RECON GATED TOMO" if slots > 1 else "RECON TOMO", "EMISSION"],
        PixelSpacing=[4, 4],
        SliceThickness=5,
        SpacingBetweenSlices=spacing,
        DetectorInformationSequence=[detector],
        SliceVector=[place + 1 for _ in range(slots) for place in range(places)],
    )
    if slots > 1:
        dataset.TimeSlotVector = [slot + 1 for slot in range(slots) for _ in range(places)]
    return dataset


@pytest.mark.parametrize("spacing", [5, -5])
@pytest.mark.parametrize("slots", [1, 2])
def test_a_spect_volume_lies_as_its_detector_says_and_its_spacing_is_signed(
    tmp_path: Path, spacing: float, slots: int
) -> None:
    data = as_bytes(spect(spacing, slots))
    for name, stored in (("plain", data), ("imported", _clean(data, RULES).data)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.dcm").write_bytes(stored.replace(b"patient-P1", b"P1        "))
        patient = read_images(stored, "x")[0].patient_id
        (folder / "labels.csv").write_text(f"PatientID,label\nP1,1\n{patient},1\n")
        source = open_source("dicom", folder, SourceOptions(volumes=True), None)
        records = [one for one in source.scan() if isinstance(one, ImageRecord)]
        assert len(records) == slots
        for slot, record in enumerate(records):
            sample = source.load(record.key)
            feet_to_head = sample.measured[0, :, 0, 0].tolist()
            expected = [10 * slot + place for place in range(4)]
            assert feet_to_head == (expected if spacing > 0 else expected[::-1])
            lowest = 90 if spacing > 0 else 75
            np.testing.assert_allclose(sample.affine[:3, 3], [-10, -20, lowest])


def test_no_canary_of_a_clip_survives_an_import() -> None:
    dataset = clip(3, True, PatientName="CANARY", PatientID="CANARY", StageName="CANARY", FrameTime=40)
    region = Dataset()
    region.RegionLocationMinX0 = 1
    region.add_new(0x00091001, "LO", "CANARY")
    dataset.SequenceOfUltrasoundRegions = [region]
    dataset.ImageComments = "CANARY"
    clean = _clean(as_bytes(dataset), RULES).data
    assert b"CANARY" not in clean.replace(b"patient-CANARY", b"")
    assert len(read_image(clean, "x").values) == 3


def test_damage_of_clips_and_detectors_costs_one_file() -> None:
    chance = random.Random(7)
    times = as_bytes(clip(4, True, FrameTimeVector=[0, 5, 6, 7], FrameIncrementPointer=TIMES))
    for whole in (times, as_bytes(spect(5, 2))):
        for number in range(150):
            data = bytearray(whole)
            for _ in range(chance.randint(1, 8)):
                data[chance.randrange(132, len(data))] = chance.randrange(256)
            if number % 5 == 0:
                data = data[: chance.randrange(len(data))]
            for door in (lambda data=data: read_images(bytes(data), "x"), lambda data=data: _clean(bytes(data), RULES)):
                with contextlib.suppress(UnreadableImage):
                    guarded("x", door)


def test_an_enhanced_object_without_places_is_a_clip() -> None:
    pixels = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)
    attributes = {"SOPClassUID": STORAGE + "12.1.1", "Modality": "XA", "CineRate": 25}
    data = as_bytes(enhanced(pixels, [{} for _ in pixels], {"PixelSpacing": [1, 1]}, **attributes))
    image = read_image(data, "x")
    assert image.intervals_ms == (40, 40)
    np.testing.assert_array_equal(image.intensities, pixels)
    np.testing.assert_array_equal(image.values, read_image(_clean(data, RULES).data, "x").values)


@pytest.mark.parametrize(
    "attributes", [{"FrameTime": -5.0}, {"FrameTimeVector": [0.0, 10.0]}, {"FrameTimeVector": [0.0, -1.0, 5.0]}]
)
def test_times_that_nothing_points_to_cost_only_themselves(attributes: dict[str, Any]) -> None:
    data = as_bytes(clip(3, False, **attributes))
    for read in (data, _clean(data, RULES).data):
        assert read_image(read, "x").intervals_ms == ()
