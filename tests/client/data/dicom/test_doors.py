"""A file gives the same numbers, display and place at both doors, read in place or imported, or both refuse it for one reason."""

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from tests.client.data.dicom.doors import added, assert_alike, imported, written
from tests.client.data.dicom_files import make

from salus.client.data.dicom.elements import ELEMENTS

RAMP = (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16)
SYNTAXES = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless,
)  # fmt: skip


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def table(count: int, first: int, bits: int, entries: np.ndarray) -> Dataset:
    return item(LUTDescriptor=[count, first, bits], LUTData=entries.astype("<u2").tobytes())


def read(data: bytes) -> tuple[Any, Any]:
    """Return the image of both doors, which are alike."""
    one, other = added(data), imported(data)
    assert one.image is not None, one.refused
    assert other.image is not None, other.refused
    assert_alike(one.image, other.image)
    return one.image, other.image


def refused(data: bytes) -> tuple[str, str]:
    """Return the reason of both doors, which is the same."""
    one, other = added(data), imported(data)
    assert one.refused is not None
    assert one.refused == other.refused
    return one.refused


def as_file(dataset: pydicom.FileDataset, **raw: tuple[str, bytes]) -> bytes:
    return written(dataset, {int(tag[1:], 16): value for tag, value in raw.items()})


def test_a_modality_table_is_applied() -> None:
    lut = [table(4096, 0, 16, np.arange(4096) * 2)]
    image, _ = read(
        as_file(make(RAMP, BitsStored=12, HighBit=11, ModalityLUTSequence=lut, WindowCenter=4096, WindowWidth=8192))
    )
    assert (image.intensities.min(), image.intensities.max()) == (0, 8160)
    assert image.values.max() == pytest.approx(0.9963, abs=1e-3)


@pytest.mark.parametrize(("bits", "signed"), [(12, False), (10, False), (12, True)])
def test_stored_values_end_at_the_high_bit(bits: int, signed: bool) -> None:
    values = np.arange(256).reshape(16, 16) - (128 if signed else 0)
    words = ((values.astype(np.int16).view(np.uint16) << (16 - bits)) | 5).astype(np.uint16)  # an overlay below
    pixels = words.view(np.int16) if signed else words
    image, _ = read(as_file(make(pixels, BitsStored=bits, HighBit=15)))
    np.testing.assert_array_equal(image.intensities[0], values)


def test_a_high_bit_that_is_not_possible_is_refused_by_name() -> None:
    assert refused(as_file(make(RAMP, BitsStored=12, HighBit=5)))[1].startswith("HighBit")
    squeezed = make(RAMP, BitsStored=12, HighBit=11)
    squeezed.compress(pydicom.uid.JPEGLSLossless, generate_instance_uid=False)
    squeezed.HighBit = 15
    assert refused(as_file(squeezed))[1].startswith("HighBit")


def test_a_window_narrower_than_one_is_a_ramp() -> None:
    image, _ = read(as_file(make(RAMP, RescaleSlope=1e-8, RescaleIntercept=0, WindowCenter=2e-5, WindowWidth=4e-5)))
    assert 0.2 < float(image.values[0, 5, 0]) < 0.5
    assert image.window.function == "LINEAR_EXACT"


@pytest.mark.parametrize(
    ("raw", "spacing", "low", "high"),
    [
        ({"t00281053": ("DS", b"1,0 "), "t00281052": ("DS", b"-1024 ")}, (1, 1), -1024, 3056),
        ({"t00281053": ("DS", b""), "t00281052": ("DS", b"-1024 ")}, (1, 1), -1024, 3056),
        ({"t00280030": ("DS", b"0,143\\0,143 ")}, (0.143, 0.143), 0, 4080),
        ({"t00280030": ("UT", b"2.5000\\2.5000 ")}, (2.5, 2.5), 0, 4080),
        ({"t00280030": ("DS", b"0.143 ")}, (0.143, 0.143), 0, 4080),
        ({"t00280030": ("DS", b"0.5 mm\\0.25 mm ")}, (0.5, 0.25), 0, 4080),
        ({"t00280030": ("DS", b"0.000\\0.000 ")}, (1, 1), 0, 4080),
        ({"t00280030": ("DS", b"0\\0 "), "t00181164": ("DS", b"0.143\\0.143 ")}, (0.143, 0.143), 0, 4080),
        ({"t00181164": ("DS", b"0.3\\0.3 "), "t00181114": ("DS", b"1.5 ")}, (0.2, 0.2), 0, 4080),
        ({"t00280034": ("IS", b"2\\1 ")}, (2, 1), 0, 4080),
        ({"t00191001": ("FD", b"0.264 "), "t00280106": ("US", b"\1\0\2\0"), "t00200013": ("IS", b"one ")}, (1, 1), 0, 4080),
    ],
)  # fmt: skip
def test_numbers_as_devices_write_them(
    raw: dict[str, tuple[str, bytes]], spacing: tuple[float, float], low: float, high: float
) -> None:
    image, _ = read(as_file(make(RAMP, BitsStored=12, HighBit=11), **raw))
    assert image.geometry.spacing_mm == pytest.approx(spacing)
    assert (image.intensities.min(), image.intensities.max()) == (low, high)


@pytest.mark.parametrize(
    ("keyword", "raw"),
    [
        ("RescaleSlope", {"t00281053": ("DS", b"one ")}),
        ("RescaleSlope", {"t00281053": ("DS", b"0 ")}),
        ("RescaleIntercept", {"t00281052": ("DS", b"-1024 cm")}),
        ("WindowWidth", {"t00281050": ("DS", b"40")}),
        ("WindowWidth", {"t00281050": ("DS", b"40"), "t00281051": ("DS", b"-5")}),
        ("VOILUTFunction", {"t00281050": ("DS", b"40"), "t00281051": ("DS", b"80"), "t00281056": ("CS", b"CUBIC ")}),
        ("PixelSpacing", {"t00280030": ("DS", b"half")}),
        ("ImageOrientationPatient", {"t00200037": ("DS", b"1\\0\\0 ")}),
        ("ImagePositionPatient", {"t00200032": ("DS", b"1\\0 ")}),
        ("PhotometricInterpretation", {"t00280004": ("CS", b"HSV ")}),
        ("PresentationLUTShape", {"t20500020": ("CS", b"CURVED")}),
        ("BitsAllocated", {"t00280100": ("US", b"\x0c\0")}),
        ("PixelPaddingValue", {"t00280120": ("DS", b"none")}),
    ],
)
def test_what_is_not_understood_is_refused_by_its_name(keyword: str, raw: dict[str, tuple[str, bytes]]) -> None:
    reason, detail = refused(as_file(make(RAMP, BitsStored=12, HighBit=11), **raw))
    assert reason == "not-understood"
    assert detail.startswith(keyword)


@pytest.mark.parametrize("inverted", [False, True])
def test_padding_is_no_measurement(inverted: bool) -> None:
    tissue = np.tile(np.linspace(-200, 300, 16), (16, 1)).astype(np.int16)
    tissue[0] = -2000
    kind = "MONOCHROME1" if inverted else "MONOCHROME2"
    modality = "CR" if inverted else "CT"  # whose values are no quantities
    image, _ = read(as_file(make(tissue, PixelPaddingValue=-2000, PhotometricInterpretation=kind, Modality=modality)))
    assert image.rescaled.min() == -200
    assert (image.values[0, 1:].min(), image.values[0, 1:].max()) == (0, 1)
    assert image.values[0, 0].max() == 0  # the darkest
    ranged, _ = read(as_file(make(tissue, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-190)))
    assert ranged.rescaled.min() > -190


def test_padding_stays_apart_behind_a_modality_table() -> None:
    pixels = RAMP.copy()
    pixels[0] = 7
    lut = [table(4096, 0, 12, np.maximum(np.arange(4096), 300))]  # padding and measurements become one value
    image, _ = read(as_file(make(pixels, BitsStored=12, HighBit=11, ModalityLUTSequence=lut, PixelPaddingValue=7)))
    assert image.intensities.min() == 300


@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE", None])
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_the_presentation_table_inverts_once(shape: str | None, kind: str) -> None:
    data = as_file(make(RAMP, PresentationLUTShape=shape, PhotometricInterpretation=kind))
    if (shape, kind) == ("IDENTITY", "MONOCHROME1"):
        assert refused(data)[1].startswith("PresentationLUTShape")
        return
    image, _ = read(data)
    assert image.inverted == (kind == "MONOCHROME1" or shape == "INVERSE")
    assert image.values[0, 0, 0] == (1 if image.inverted else 0)


def test_a_voi_table_shows_and_does_not_measure() -> None:
    entries = (np.linspace(0, 1, 4096) ** 2 * 1023).astype(int)
    image, _ = read(as_file(make(RAMP, BitsStored=12, HighBit=11, VOILUTSequence=[table(4096, 0, 10, entries)])))
    assert image.intensities.max() == 4080
    np.testing.assert_allclose(image.values[0], entries[RAMP] / 1023, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes_become_colours(bits: int) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = {}
    for number, name in enumerate(("Red", "Green", "Blue")):
        entries = np.roll(np.arange(256) * (257 if bits == 16 else 1), number).astype("<u2" if bits == 16 else np.uint8)
        data[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        data[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    image, _ = read(as_file(make(pixels, PhotometricInterpretation="PALETTE COLOR", **data)))
    assert image.values.shape == (1, 3, 16, 16)
    assert image.values[0, 0].ravel()[5] == pytest.approx(5 / 255)
    assert image.values[0, 1].ravel()[5] == pytest.approx(4 / 255)
    deep = make(pixels.astype(np.uint16) + 300, PhotometricInterpretation="PALETTE COLOR", **data)
    image, _ = read(as_file(deep))
    assert (image.values[0, 0] == 1).all()  # beyond the palette is its last entry, and never begins again
    without = make(pixels, PhotometricInterpretation="PALETTE COLOR")
    assert refused(as_file(without))[1].startswith("RedPaletteColorLookupTableDescriptor")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_pixels(dtype: type) -> None:
    values = np.linspace(-1.5, 2.5, 256).reshape(16, 16).astype(dtype)
    dataset = make(RAMP, PixelData=None, BitsStored=None, HighBit=None, PixelRepresentation=None)
    keyword, vr = ("FloatPixelData", "OF") if dtype == np.float32 else ("DoubleFloatPixelData", "OD")
    dataset.BitsAllocated = 8 * values.dtype.itemsize
    dataset.add_new(keyword, vr, values.tobytes())
    image, _ = read(as_file(dataset))
    np.testing.assert_array_equal(image.intensities[0], values.astype(np.float32))
    values[3, 3] = np.nan
    dataset[keyword].value = values.tobytes()
    assert refused(as_file(dataset))[0] == "not-finite"


def test_whole_numbers_of_32_bits() -> None:
    values = (np.arange(256, dtype=np.uint32) * 10_000_000).reshape(16, 16)
    image, _ = read(as_file(make(values)))
    np.testing.assert_array_equal(image.intensities[0], values.astype(np.float32))


def test_real_world_values_count_where_nothing_else_is_stated() -> None:
    mapping = [item(RealWorldValueSlope=0.5, RealWorldValueIntercept=3.0)]
    image, _ = read(as_file(make(RAMP, RealWorldValueMappingSequence=mapping)))
    assert image.intensities.min() == 3
    image, _ = read(as_file(make(RAMP, RealWorldValueMappingSequence=mapping, RescaleSlope=2, RescaleIntercept=0)))
    assert image.intensities.max() == 8160
    assert refused(as_file(make(RAMP, RealWorldValueMappingSequence=mapping * 2)))[1].startswith("RealWorldValue")


def test_a_missing_transfer_syntax_is_implicit_and_a_missing_preamble_is_read_too() -> None:
    buffer = io.BytesIO()
    dataset = make(RAMP)
    pydicom.dcmwrite(buffer, Dataset(dataset), implicit_vr=True, little_endian=True)
    bare = buffer.getvalue()
    for data in (bare, bytes(128) + b"DICM" + bare):
        image, _ = read(data)
        np.testing.assert_array_equal(image.intensities[0], RAMP)


def test_private_compression_and_twelve_bit_jpeg_are_refused_by_name() -> None:
    dataset = make(RAMP, BitsStored=12, HighBit=11)
    dataset.PixelData = pydicom.encaps.encapsulate([b"whatever"])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGExtended12Bit
    assert "JPEG Extended" in refused(as_file(dataset))[1]
    reason, detail = refused(as_file(dataset).replace(b"1.2.840.10008.1.2.4.51", b"1.2.840.113619.5.2.7.9"))
    assert reason == "unsupported"
    assert "TransferSyntaxUID" in detail
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.840.10008.1.2.4.100")
    assert "MPEG2" in refused(as_file(dataset))[1]


def test_pixels_that_are_cut_off_are_refused_with_both_lengths() -> None:
    reason = refused(as_file(make(RAMP, PixelData=RAMP.tobytes()[:-10])))
    assert reason == ("damaged", "PixelData has 502 bytes, where the header announces 512")
    image, _ = read(as_file(make(RAMP, PixelData=RAMP.tobytes() + bytes(10))))
    np.testing.assert_array_equal(image.intensities[0], RAMP)


def test_signed_objects_and_tables_after_the_window_are_refused_by_name() -> None:
    for keyword in ("DigitalSignaturesSequence", "PresentationLUTSequence"):
        reason, detail = refused(as_file(make(RAMP, **{keyword: [item(LUTExplanation="x")]})))
        assert reason == "unsupported"
        assert detail.startswith(keyword)


def test_a_deflated_file_is_read_within_a_bound() -> None:
    def deflated(comment: str) -> bytes:
        # The same bytes in every run: what a damaged one costs depends on them.
        fixed = {f"{level}InstanceUID": f"1.2.{place}" for place, level in enumerate(("Study", "Series", "SOP"), 3)}
        dataset = make(RAMP, ImageComments=comment, **fixed)
        dataset.file_meta.MediaStorageSOPInstanceUID = fixed["SOPInstanceUID"]
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
        return buffer.getvalue()

    image, _ = read(deflated("x"))
    np.testing.assert_array_equal(image.intensities[0], RAMP)
    bomb = deflated("0" * 100_000_000)
    assert len(bomb) < 200_000
    assert refused(bomb)[0] == "too-large"
    assert refused(deflated("x")[:-40])[0] == "damaged"
    good = deflated("x")
    for place in range(140, len(good), 7):  # whatever is damaged, both doors say the same
        data = good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :]
        one, other = added(data), imported(data)
        assert (one.image is None) == (other.image is None)


NUMBERS = st.one_of(
    st.floats(-3000, 3000, allow_nan=False).map(lambda value: f"{value:.6g}"),
    st.sampled_from(
        ["0", "1", "-1024", "1,5", "0.5 mm", "", " 2 ", "nan", "one", "1e3", "1e-6", "1.0\\2.0", "99999999999"]
    ),
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys((2625618, 2625619, 2625616, 2625617, 1573000, 1572944, 1577236), NUMBERS),
        **{
            tag: st.tuples(NUMBERS, NUMBERS).map("\\".join) | NUMBERS
            for tag in (0x00280030, 0x00181164, 0x00182010, 0x00280034)
        },
        0x00200032: st.lists(NUMBERS, min_size=2, max_size=3).map("\\".join),
        0x00200037: st.sampled_from(["1\\0\\0\\0\\1\\0", "1\\0\\0\\0\\0\\-1", "0\\1\\0\\0\\0\\-1", "1\\0\\0\\1\\0\\0", "1\\0"]),
        0x00281056: st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID", "linear", "CUBIC"]),
        0x20500020: st.sampled_from(["IDENTITY", "INVERSE", "OTHER"]),
        0x00080008: st.sampled_from(["ORIGINAL\\PRIMARY\\AXIAL", "DERIVED\\SECONDARY", "ORIGINAL"]),
    },
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    header=HEADERS,
    bits=st.sampled_from([8, 10, 12, 16]),
    up=st.sampled_from([0, 0, 0, 1, 4]),
    signed=st.booleans(),
    kind=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    frames=st.sampled_from([1, 1, 3]),
    syntax=st.sampled_from(SYNTAXES),
    padding=st.none() | st.integers(-100, 300),
    tables=st.sampled_from(["", "", "modality", "voi", "both"]),
    seed=st.integers(0, 2**16),
)
def test_both_doors_agree_whatever_the_header_says(
    header: dict[int, str], bits: int, up: int, signed: bool, kind: str, frames: int, syntax: str, padding: int | None,
    tables: str, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    bits = 10 if syntax == RLELossless and bits == 8 else bits  # pydicom's encoder writes 8 bits as one byte
    high = min(bits - 1 + up, 15)
    words = rng.integers(0, 2**16, (frames, 5, 6)).astype(np.uint16)
    dataset = make(
        (words.view(np.int16) if signed else words).squeeze(),
        BitsStored=bits,
        HighBit=high,
        PhotometricInterpretation=kind,
    )
    if padding is not None:
        dataset.add_new(0x00280120, "SS" if signed or padding < 0 else "US", padding)
    if tables in ("modality", "both"):
        entries = np.sort(rng.integers(0, 2**12, 300))
        dataset.ModalityLUTSequence = [table(300, int(rng.integers(0, 50)), 12, entries)]
    if tables in ("voi", "both"):
        dataset.VOILUTSequence = [table(200, int(rng.integers(0, 50)), 16, np.sort(rng.integers(0, 2**16, 200)))]
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
        data = written(
            dataset, {tag: ("DS" if tag < 0x20500000 else "CS", padded(text)) for tag, text in header.items()}
        )
    elif syntax == ExplicitVRLittleEndian:
        data = written(dataset, {tag: ("DS", padded(text)) for tag, text in header.items()})
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
        data = translated(dataset, syntax, header)
    one, other = added(data), imported(data)
    if one.refused is not None:
        event(f"refused: {one.refused[1].split()[0]}")
        assert one.refused == other.refused
        assert one.refused[0] in {"not-understood", "bad-geometry"}
    else:
        event("read")
        assert one.image is not None
        assert other.image is not None, other.refused
        assert_alike(one.image, other.image)
        assert np.isfinite(one.image.values).all()


def padded(text: str) -> bytes:
    return text.encode() + b" " * (len(text) % 2)


def translated(dataset: pydicom.FileDataset, syntax: str, header: dict[int, str]) -> bytes:
    """Return the file in another syntax; the elements are written as text of their own VR."""
    if syntax == ExplicitVRBigEndian:
        dataset["PixelData"].value = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        for name in ("ModalityLUTSequence", "VOILUTSequence"):
            for entry in dataset.get(name, ()):
                entry["LUTData"].value = np.frombuffer(entry.LUTData, "<u2").astype(">u2").tobytes()
    for tag, text in header.items():
        dataset.add_new(tag, "UT", text)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def test_the_list_of_elements_names_each_once_and_says_what_is_done() -> None:
    names = [keyword for element in ELEMENTS for keyword in element.keywords]
    assert len(names) == len(set(names))
    assert all(pydicom.datadict.tag_for_keyword(name) for name in names if name != "OverlayData")  # of many groups
    assert all(element.how for element in ELEMENTS)
