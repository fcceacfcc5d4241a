"""Padding is no measurement: which voxels it is crosses from the child, at both doors, and no statistic counts them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.builders import tiny_job
from tests.client.data.dicom.doors import RULES, added
from tests.client.data.dicom.enhanced import as_bytes, enhanced
from tests.client.data.dicom_files import make
from tests.common.sums.builders import job_of

from salus.client.data.cache import decoded, encoded
from salus.client.data.dicom.decoder_cleaning import _clean
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.dicom.messages import Loaded
from salus.client.data.dicom.picture import read_images
from salus.client.data.examples import example_of
from salus.client.data.records import ImageRecord, Sample
from salus.client.data.sources import open_source
from salus.client.data.sources.settings import SourceOptions
from salus.client.measured_rows import measured_of
from salus.common.sums import sums_of

PADDED, LIMIT = -2000, -1990
INFO = {"modality": "CT", "vendor": "GE"}


def loaded(folder: Path, files: list[bytes], decoding: Decoding | None = None, **options: Any) -> list[list[Sample]]:
    """Return the samples of files that are read in place, and of the same after an import."""
    found = []
    for kind in ("dicom", "imported"):
        here = folder / kind
        here.mkdir(exist_ok=True)
        for number, data in enumerate(files):
            stored = data if kind == "dicom" else _clean(data, RULES).data
            (here / f"{number:03d}.dcm").write_bytes(stored)
        source = open_source(kind, here, SourceOptions(unlabelled=True, **options), decoding)
        found.append([source.load(item.key) for item in source.scan() if isinstance(item, ImageRecord)])
    return found


def rows_of(sample: Sample) -> list[np.ndarray | None]:
    measured = measured_of(sample, 1, dict(INFO))
    kinds = [("quantiles", "bins = 32"), ("nyul", ""), ("combat", "")]
    return [sums_of(job_of(kind, statistics=text)).row(1, [], measured) for kind, text in kinds]


def assert_same_statistics(one: Sample, other: Sample) -> None:
    for mine, theirs in zip(rows_of(one), rows_of(other), strict=True):
        assert mine is not None
        assert theirs is not None
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
    st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    st.sampled_from([(1, 0), (0.5, 100)]),
)
def test_a_padded_border_changes_no_statistic_at_either_door(
    tmp_path: Path, seed: int, widths: list[int], kind: str, scale: tuple[float, float]
) -> None:
    random = np.random.default_rng(seed)
    values = random.integers(0, 900, (6, 7)).astype(np.int16)
    sides = [(widths[0], widths[1]), (widths[2], widths[3])]
    border = np.pad(np.zeros(values.shape, bool), sides, constant_values=True)
    pixels = np.pad(values, sides)
    pixels[border] = random.integers(PADDED, LIMIT + 1, border.sum())
    facts = {"PhotometricInterpretation": kind, "RescaleSlope": scale[0], "RescaleIntercept": scale[1]}
    padded = as_bytes(make(pixels, PixelPaddingValue=PADDED, PixelPaddingRangeLimit=LIMIT, **facts))
    [[plain], [same]] = loaded(tmp_path, [as_bytes(make(values, **facts))])
    np.testing.assert_array_equal(plain.measured, same.measured)
    assert plain.padding is same.padding is None
    for [sample] in loaded(tmp_path, [padded]):
        found = np.zeros(border.shape, bool) if sample.padding is None else sample.padding[0]
        np.testing.assert_array_equal(found, border)
        np.testing.assert_array_equal(sample.measured[0][~border], plain.measured.ravel())
        assert (sample.measured[0][border] == plain.measured.min()).all()
        assert_same_statistics(plain, sample)


def slices(places: list[float], kind: str = "MONOCHROME2") -> tuple[list[bytes], np.ndarray]:
    """Return the files of a volume with a corner of padding in its second slice, and their pixels."""
    pixels = np.random.default_rng(5).integers(0, 900, (len(places), 5, 6)).astype(np.int16)
    pixels[1, :2, :3] = PADDED
    files = [
        make(
            plane, PixelPaddingValue=PADDED, PhotometricInterpretation=kind, InstanceNumber=number + 1,
            ImagePositionPatient=[0, 0, place], ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[1, 1],
        )
        for number, (plane, place) in enumerate(zip(pixels, places, strict=True))
    ]  # fmt: skip
    return [as_bytes(file) for file in files], pixels


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_a_volume_knows_its_padding(tmp_path: Path, kind: str) -> None:
    files, pixels = slices([0, 1, 2, 3], kind)
    for [sample] in loaded(tmp_path, files, volumes=True):
        np.testing.assert_array_equal(sample.padding, (pixels == PADDED)[None])


def test_a_slice_that_is_interpolated_from_padding_is_padding(tmp_path: Path) -> None:
    files, _ = slices([0, 1, 2.2, 3.2])
    for [sample] in loaded(tmp_path, files, volumes=True):
        assert sample.padding is not None
        assert sample.padding.shape == sample.values.shape
        interpolated = [plane.sum() for plane in sample.padding[0]]
        assert interpolated[0] == 0
        assert interpolated[1] == 6
        assert set(interpolated) == {0, 6}


def test_the_channels_of_a_volume_have_their_own_padding(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    pixels = random.integers(0, 900, (2, 3, 4, 5)).astype(np.int16)
    pixels[1, 2, 0] = PADDED
    files = [
        as_bytes(
            make(
                pixels[echo, place], PixelPaddingValue=PADDED, Modality="MR", EchoTime=10.0 * (echo + 1),
                ImagePositionPatient=[0, 0, place], ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[1, 1],
                SOPClassUID="1.2.840.10008.5.1.4.1.1.4",
            )
        )
        for echo in range(2) for place in range(3)
    ]  # fmt: skip
    for [sample] in loaded(tmp_path, files, volumes=True, channels="echo"):
        np.testing.assert_array_equal(sample.padding, pixels == PADDED)


def test_a_frame_of_an_enhanced_object_has_the_padding_of_the_object() -> None:
    pixels = np.random.default_rng(5).integers(0, 900, (3, 5, 6)).astype(np.int16)
    pixels[1, :2] = PADDED
    own = [{"ImagePositionPatient": [0, 0, place]} for place in range(3)]
    shared = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
    dataset = enhanced(pixels, own, shared)
    dataset.PixelPaddingValue = PADDED
    data = as_bytes(dataset)
    for stored in (data, _clean(data, RULES).data):
        found = [image.padding for image in read_images(stored, "it")]
        assert found[0] is None
        assert found[2] is None
        np.testing.assert_array_equal(found[1], (pixels == PADDED)[1:2])


def test_a_clip_and_its_frames_know_their_padding(tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 200, (3, 4, 5)).astype(np.uint8)
    pixels[1, 0] = 255
    data = as_bytes(make(pixels, Modality="XA", SOPClassUID="1.2.840.10008.5.1.4.1.1.12.1", PixelPaddingValue=255))
    for [sample] in loaded(tmp_path, [data]):
        np.testing.assert_array_equal(sample.padding, (pixels == 255)[None])
    for samples in loaded(tmp_path, [data], frames="each"):
        marked = [None if sample.padding is None else sample.padding.sum() for sample in samples]
        assert [count or 0 for count in marked] == [0, 5, 0]


def test_a_child_says_what_this_process_says(tmp_path: Path) -> None:
    files, _ = slices([0, 1, 2, 3])
    for options in ({"volumes": True}, {}):
        here, there = (loaded(tmp_path, files, decoding, **options) for decoding in (None, Decoding()))
        for mine, theirs in zip(here, there, strict=True):
            assert len(mine) == len(theirs) > 0
            for one, other in zip(mine, theirs, strict=True):
                assert (one.padding is None) == (other.padding is None)
                if one.padding is not None:
                    np.testing.assert_array_equal(one.padding, other.padding)
                    assert_same_statistics(one, other)
        assert any(sample.padding is not None for sample in there[0])


def test_an_image_of_nothing_but_padding_measures_nothing() -> None:
    data = as_bytes(make(np.full((4, 4), PADDED, np.int16), PixelPaddingValue=PADDED))
    image = added(data).image
    assert image is not None
    sample = Sample(image.values, intensities=image.intensities, padding=image.padding)
    assert rows_of(sample) == [None, None, None]


@pytest.mark.parametrize(
    "wrong", [{"measured": (1, 8)}, {"columns": tuple("abcdefgh")}, {"padding": "11111111"}, {"padding": 1}]
)
def test_padding_that_fits_no_image_is_refused(wrong: dict[str, Any]) -> None:
    right = {"shape": (2, 4), "measured": (2, 4), "padding": True}
    assert Loaded.model_validate(right).body_bytes == 4 * 16 + 1
    assert Loaded.model_validate({**right, "padding": False}).body_bytes == 4 * 16
    with pytest.raises(ValidationError):
        Loaded.model_validate({**right, **wrong})


def test_a_chain_in_the_modality_s_units_gets_the_padding() -> None:
    values = np.ones((1, 8, 8), np.float32)
    padding = np.zeros(values.shape, bool)
    padding[0, 0] = True
    sample = Sample(values, intensities=values * 40, padding=padding)
    task = tiny_job().task
    example = example_of(sample, task, "GE", measured=True)
    np.testing.assert_array_equal(example.padding_of("image"), padding)
    np.testing.assert_array_equal(decoded(encoded(example)).padding_of("image"), padding)  # of the cache on disk
    assert example_of(sample, task, "GE").padding_of("image") is None  # nothing is computed from such values
