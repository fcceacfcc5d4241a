from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.client.data.dicom_files import make, write

from salus.client.data.dicom.picture import read_dicom
from salus.common.errors import UnreadableImage

RAMP = np.array([[0, 100], [200, 300]], np.uint16)


def values(path: Path) -> np.ndarray:
    return read_dicom(path).values[0]


def test_window_after_rescale_follows_the_standard(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", RAMP, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=200.5, WindowWidth=201)
    # PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5), clipped; x = 2 * stored - 100
    assert values(path).tolist() == [[0.0, 0.0], [1.0, 1.0]]
    path = write(tmp_path / "b.dcm", RAMP, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=200.5, WindowWidth=401)
    assert np.allclose(values(path), [[0, 0.25], [0.75, 1.0]])


@pytest.mark.parametrize(
    ("function", "expected"),
    [("LINEAR_EXACT", [[0.0, 0.0], [0.5, 1.0]]), ("SIGMOID", [[0.018, 0.119], [0.5, 0.881]])],
)
def test_other_window_functions(tmp_path: Path, function: str, expected: list[list[float]]) -> None:
    path = write(tmp_path / "a.dcm", RAMP, WindowCenter=200, WindowWidth=200, VOILUTFunction=function)
    assert np.allclose(values(path), expected, atol=1e-3)


def test_without_a_window_the_image_is_stretched(tmp_path: Path) -> None:
    assert np.allclose(values(write(tmp_path / "a.dcm", RAMP)), RAMP / 300)
    flat = write(tmp_path / "b.dcm", np.full((2, 2), 7, np.uint16))
    assert not values(flat).any()


def test_monochrome1_is_turned_so_that_bright_is_large(tmp_path: Path) -> None:
    plain = values(write(tmp_path / "a.dcm", RAMP, WindowCenter=150, WindowWidth=301))
    turned = values(
        write(tmp_path / "b.dcm", RAMP, WindowCenter=150, WindowWidth=301, PhotometricInterpretation="MONOCHROME1")
    )
    assert np.allclose(plain, 1 - turned)


def test_voi_lut_wins_over_the_window(tmp_path: Path) -> None:
    item = Dataset()
    item.LUTDescriptor = [4, 0, 8]
    item.LUTData = [0, 51, 102, 255]
    dataset = make(np.array([[0, 1], [2, 3]], np.uint16), WindowCenter=1, WindowWidth=2)
    item["LUTDescriptor"].VR = "US"
    item["LUTData"].VR = "US"
    dataset.VOILUTSequence = Sequence([item])
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert np.allclose(values(tmp_path / "a.dcm"), [[0, 0.2], [0.4, 1.0]])


def test_colour_becomes_channels_first(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[..., 0] = 255
    dataset = make(
        np.zeros((2, 3), np.uint8),
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        PixelData=pixels.tobytes(),
    )
    dataset["PixelData"].VR = "OB"
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    image = read_dicom(tmp_path / "a.dcm")
    assert image.values.shape == (1, 3, 2, 3)
    assert image.values[0, 0].min() == 1.0
    assert image.values[0, 1:].max() == 0.0


def test_signed_pixels_and_multi_frame(tmp_path: Path) -> None:
    frames = np.stack([np.full((2, 2), -1000, np.int16), np.full((2, 2), 1000, np.int16)])
    image = read_dicom(write(tmp_path / "a.dcm", frames))
    assert image.values.shape == (2, 2, 2)
    assert image.values[0].max() == 0.0
    assert image.values[1].min() == 1.0


def test_geometry(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.dcm",
        RAMP,
        PixelSpacing=[0.5, 0.25],
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
        ImagePositionPatient=[1, 2, 3],
    )
    geometry = read_dicom(path).geometry
    assert geometry.spacing_mm == (0.5, 0.25)
    assert geometry.normal.tolist() == [-1, 0, 0]
    assert geometry.position == (1, 2, 3)


def test_truncated_at_every_length_is_quarantined_never_raised(tmp_path: Path) -> None:
    data = write(tmp_path / "whole.dcm", RAMP, PixelSpacing=[1, 1]).read_bytes()
    reasons = set()
    for length in range(len(data) - 1):
        (tmp_path / "cut.dcm").write_bytes(data[:length])
        with pytest.raises(UnreadableImage) as caught:
            read_dicom(tmp_path / "cut.dcm")
        reasons.add(caught.value.reason)
    assert {"not-dicom", "damaged"} <= reasons


def test_garbage_lies_and_nesting_are_quarantined_with_their_reason(tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "empty").write_bytes(b"")
    write(tmp_path / "no-pixels", RAMP, PixelData=None)
    write(tmp_path / "huge", RAMP, Rows=65535, Columns=65535, NumberOfFrames=9999)
    write(tmp_path / "zero", RAMP, Rows=0)
    plain = write(tmp_path / "plain", RAMP).read_bytes()
    start = plain.index(b"\x08\x00\x16\x00UI")
    opening = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    (tmp_path / "nested").write_bytes(plain[:start] + opening * 2000 + closing * 2000 + plain[start:])
    expected = {
        "garbage": "not-dicom",
        "empty": "not-dicom",
        "no-pixels": "no-pixels",
        "huge": "too-large",
        "zero": "not-understood",
        "nested": "nested-too-deep",
    }
    for name, reason in expected.items():
        with pytest.raises(UnreadableImage) as caught:
            read_dicom(tmp_path / name)
        assert caught.value.reason == reason, name
        assert str(tmp_path) not in str(caught.value)


def test_messages_do_not_quote_values(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", RAMP, PatientName="Secret^Person", WindowCenter=None, Rows=3)
    with pytest.raises(UnreadableImage) as caught:
        read_dicom(path)
    assert "Secret" not in str(caught.value)


def test_objects_that_cannot_be_placed_or_bounded_are_quarantined(tmp_path: Path) -> None:
    frames = np.zeros((2, 2, 2), np.uint16)
    item = Dataset()
    item.PlanePositionSequence = [Dataset()]
    item.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 0]
    dataset = make(frames)
    dataset.PerFrameFunctionalGroupsSequence = Sequence([item, item])
    dataset.save_as(tmp_path / "enhanced", enforce_file_format=True)
    with pytest.raises(UnreadableImage) as caught:
        read_dicom(tmp_path / "enhanced")
    assert caught.value.reason == "several-frames"


@pytest.mark.parametrize(
    "attributes",
    [
        {"PixelSpacing": [0, 1]},  # unknown in one direction only
        {"PixelSpacing": [-1, 1]},
        {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]},
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        {"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]},
    ],
)
def test_geometry_that_is_no_plane_is_quarantined(tmp_path: Path, attributes: dict[str, object]) -> None:
    with pytest.raises(UnreadableImage) as caught:
        read_dicom(write(tmp_path / "a.dcm", RAMP, **attributes))
    assert caught.value.reason == "bad-geometry"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"PatientSex": "F", "PatientAge": "045Y"}, {"sex": "F", "age_years": 45}),
        ({"PatientAge": "103Y"}, {"age_years": 90}),
        ({"PatientBirthDate": "19500102", "StudyDate": "20200101"}, {"age_years": 69}),
        ({"PatientAge": "040Y", "PatientBirthDate": "19500102", "StudyDate": "20200101"}, {"age_years": 40}),
        ({"PatientSex": "Smith", "PatientAge": "SMITH", "PatientBirthDate": "19500102"}, {}),
        ({}, {}),
    ],
)
def test_sex_and_age_are_kept_in_a_few_values(tmp_path: Path, header: dict[str, str], expected: dict) -> None:
    info = read_dicom(write(tmp_path / "a.dcm", RAMP, **header)).info
    assert {name: value for name, value in info.items() if name in ("sex", "age_years")} == expected
