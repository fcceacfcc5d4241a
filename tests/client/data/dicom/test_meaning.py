"""What careless devices write beside the pixels: polarity of quantities, padding beyond the bits, palettes, regions."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, RLELossless
from tests.client.data.dicom.doors import added, assert_alike, imported, written
from tests.client.data.dicom_files import make

from salus.client.data.dicom.opening import MOST_ITEMS

RAMP = (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16)
SPATIAL, CENTIMETRES = 1, 3


def both(data: bytes) -> Any:
    """Return the image of both doors, which are alike."""
    one, other = added(data), imported(data)
    assert one.image is not None, one.refused
    assert other.image is not None, other.refused
    assert_alike(one.image, other.image)
    return one.image


def refused(data: bytes) -> tuple[str, str]:
    one, other = added(data), imported(data)
    assert one.refused is not None
    assert one.refused == other.refused
    return one.refused


@pytest.mark.parametrize(
    "attributes", [{"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}]
)
@pytest.mark.parametrize(
    ("modality", "kind", "mirrored"),
    [("CT", None, False), ("PT", None, False), ("MR", "HU", False), ("CR", None, True)],
)
def test_polarity_changes_how_a_quantity_is_shown_and_not_its_value(
    attributes: dict[str, Any], modality: str, kind: str | None, mirrored: bool
) -> None:
    dataset = make(RAMP, Modality=modality, RescaleSlope=1, RescaleIntercept=-1024, RescaleType=kind, **attributes)
    image = both(written(dataset, {}))
    measured = RAMP.astype(np.float32) - 1024
    np.testing.assert_array_equal(image.intensities[0], 65535 - 2048 - measured if mirrored else measured)
    assert image.values[0, 0, 0] == 1  # the smallest is shown white


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(9, 15),
    signed=st.booleans(),
    word=st.integers(0, 2**16 - 1),
    present=st.booleans(),
    how=st.sampled_from(["little", "big", "rle"]),
)
def test_padding_beyond_the_stored_bits_is_no_measurement(
    bits: int, signed: bool, word: int, present: bool, how: str
) -> None:
    least = -(2 ** (bits - 1)) if signed else 0
    values = (np.arange(256).reshape(16, 16) + (least if signed else 20)).astype(np.int32)
    words = (values & 0xFFFF).astype(np.uint16)
    padding = words == word  # a value that is padding, wherever it is
    if present:
        words[3, 4:9] = word
        padding |= words == word
    kept = word < 2**bits or (signed and word >= 2**16 - 2 ** (bits - 1))
    if kept and signed and word < 2**bits:  # written without its sign, which the pixels have or not
        return
    dataset = make(words.view(np.int16) if signed else words, BitsStored=bits, HighBit=bits - 1)
    if how == "big":
        dataset.PixelData = words.byteswap().tobytes()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=False)
        dataset["PixelData"].VR = "OW"
        dataset.add_new(0x00280120, "US", word)
        data = written_as_it_is(dataset)
    else:
        if how == "rle":
            dataset.compress(RLELossless)
        data = written(dataset, {0x00280120: ("US", word.to_bytes(2, "little"))})
    image = both(data)
    np.testing.assert_array_equal(image.intensities[0][~padding], values[~padding])
    if padding.any():
        assert (image.intensities[0][padding] == values[~padding].min()).all()


def written_as_it_is(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_padding_beyond_the_bits_beside_an_overlay_is_refused_by_name() -> None:
    words = RAMP | 0x1000  # an old overlay
    words[0] = 63536
    data = written(make(words, BitsStored=12, HighBit=11), {0x00280120: ("US", (63536).to_bytes(2, "little"))})
    assert refused(data)[1].startswith("PixelPaddingValue")
    image = both(written(make(RAMP | 0x1000, BitsStored=12, HighBit=11), {}))
    np.testing.assert_array_equal(image.intensities[0], RAMP)


@pytest.mark.parametrize("wide", [False, True])
def test_a_palette_of_8_bits_in_words_is_as_bright_as_one_in_bytes(wide: bool) -> None:
    entries = np.arange(256)
    colours = {}
    for colour in ("Red", "Green", "Blue"):
        colours[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        colours[f"{colour}PaletteColorLookupTableData"] = entries.astype("<u2" if wide else "u1").tobytes()
    pixels = entries.astype(np.uint8).reshape(16, 16)
    image = both(written(make(pixels, PhotometricInterpretation="PALETTE COLOR", **colours), {}))
    np.testing.assert_allclose(image.values[0, 0], pixels / 255, atol=1e-6)


def region(down: float, across: float, **values: Any) -> Dataset:
    found = Dataset()
    found.RegionSpatialFormat, found.PhysicalUnitsXDirection, found.PhysicalUnitsYDirection = (
        SPATIAL,
        CENTIMETRES,
        CENTIMETRES,
    )
    found.PhysicalDeltaX, found.PhysicalDeltaY = across, down
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return found


@pytest.mark.parametrize(
    ("regions", "spacing"),
    [
        ([region(0.03, 0.02)], (0.3, 0.2)),
        ([region(-0.03, 0.02), region(0.03, 0.02)], (0.3, 0.2)),
        ([region(0.03, 0.02), region(1, 2, RegionSpatialFormat=3, PhysicalUnitsXDirection=4)], (0.3, 0.2)),
        ([region(0.03, 0.02), region(0.04, 0.02)], (1, 1)),  # two scales: none for all
        ([region(1, 2, PhysicalUnitsXDirection=4)], (1, 1)),
    ],
)
def test_regions_of_ultrasound_state_the_spacing(regions: list[Dataset], spacing: tuple[float, float]) -> None:
    dataset = make(RAMP, SequenceOfUltrasoundRegions=regions)
    assert both(written(dataset, {})).geometry.spacing_mm == spacing
    dataset.PixelSpacing = [5, 6]
    assert both(written(dataset, {})).geometry.spacing_mm == (5, 6)


def test_a_region_without_its_scale_is_refused_by_name() -> None:
    assert refused(written(make(RAMP, SequenceOfUltrasoundRegions=[region(0, 1)]), {}))[1].startswith("SequenceOf")


@pytest.mark.parametrize("kind", ["YBR_FULL", "YBR_RCT", "RGB"])
@pytest.mark.parametrize("transformed", [False, True])
def test_jpeg_2000_undoes_its_own_colour_transform_once(kind: str, transformed: bool) -> None:
    if kind != "RGB" and not transformed:
        return
    across = np.tile(np.linspace(0, 255, 64), (64, 1))
    colours = np.stack([across, 255 - across.T, np.full((64, 64), 60)], -1).astype(np.uint8)
    dataset = make(colours[..., 0], SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation=kind)
    stream = encode_array(colours, bits_stored=8, photometric_interpretation=1, use_mct=transformed)
    dataset.file_meta.TransferSyntaxUID, dataset.PixelData = JPEG2000Lossless, encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    np.testing.assert_allclose(both(written_as_it_is(dataset)).values[0], np.moveaxis(colours, -1, 0) / 255, atol=0.005)


@pytest.mark.parametrize("keyword", ["RescaleIntercept", "WindowCenter", "WindowWidth"])
@pytest.mark.parametrize(("text", "value"), [("1,024", None), ("-1,024", None), ("1024,5", 1024.5), ("0,125", 0.125)])
def test_a_comma_that_may_separate_thousands_is_refused(keyword: str, text: str, value: float | None) -> None:
    tags = {"RescaleIntercept": 0x00281052, "WindowCenter": 0x00281050, "WindowWidth": 0x00281051}
    data = written(
        make(RAMP, RescaleSlope=1, RescaleIntercept=0, WindowCenter=9, WindowWidth=9),
        {tags[keyword]: ("DS", text.encode() + b" " * (len(text) % 2))},
    )
    if value is None:
        assert refused(data)[1].startswith(keyword)
    else:
        both(data)


def test_photographs_are_no_secondary_captures() -> None:
    dataset = make(RAMP.astype(np.uint8), SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.4", Modality="XC")
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    both(written(dataset, {}))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    assert imported(written(dataset, {})).refused is not None


@pytest.mark.parametrize("mark", [b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"])
def test_more_items_than_memory_can_hold_are_refused_before_they_are_parsed(mark: bytes) -> None:
    items = (mark + bytes(4)) * (MOST_ITEMS + 1)
    assert refused(written(make(RAMP), {0x52009230: ("SQ", items)}))[0] == "too-large"
    assert added(written(make(RAMP), {0x00081140: ("SQ", b"\xfe\xff\x00\xe0" + bytes(4))})).image is not None


@pytest.mark.parametrize(("stream", "header"), [(True, True), (False, False), (True, False)])
@pytest.mark.parametrize("bits", [12, 16])
def test_jpeg_2000_pixels_have_the_sign_that_the_header_says(stream: bool, header: bool, bits: int) -> None:
    values = np.arange(4096).reshape(64, 64) // 4 - (500 if stream else 0)
    pixels = values.astype(np.int16 if stream else np.uint16)
    dataset = make(pixels.view(np.int16 if header else np.uint16), BitsStored=bits, HighBit=bits - 1)
    data = encode_array(pixels, bits_stored=bits, photometric_interpretation=2)
    dataset.file_meta.TransferSyntaxUID, dataset.PixelData = JPEG2000Lossless, encapsulate([data])
    dataset["PixelData"].VR = "OB"
    if stream != header:
        assert refused(written_as_it_is(dataset))[1].startswith("PixelRepresentation")
    else:
        np.testing.assert_array_equal(both(written_as_it_is(dataset)).intensities[0], values)


def test_an_image_type_that_is_a_number_and_a_damaged_head_cost_nothing() -> None:
    both(written(make(RAMP), {0x00080008: ("IS", b"12")}))
    data = written(make(RAMP), {})
    place = data.index(b"\x02\x00\x02\x00UI")
    both(
        data[: place + 4] + b"U\x04" + data[place + 6 :]
    )  # a VR that does not exist, of an element that repeats another
    both(data[: place + 4] + b"UL" + data[place + 6 :])


def test_a_table_beside_a_damaged_element_is_the_same_at_both_doors() -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 16], (np.arange(256) * 100).astype("<u2").tobytes()
    data = written(make(RAMP, ModalityLUTSequence=[table]), {})
    marks = [b"\x28\x00\x03\x01US", b"\x28\x00\x02\x00US", b"\x28\x00\x06\x30OW", b"\x28\x00\x02\x30US"]
    for place in [data.index(mark) + 4 for mark in marks]:
        damaged = data[: place + 1] + b"\x04" + data[place + 2 :]  # a VR that does not exist
        one, other = added(damaged), imported(damaged)
        assert (one.refused and one.refused[0]) == (other.refused and other.refused[0])
        if one.image is not None and other.image is not None:
            assert_alike(one.image, other.image)
