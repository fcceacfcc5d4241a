"""Numbers of a header as devices write them: understood, or refused by the element's name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from salus.client.data.dicom.numbers import items_of, number_of, numbers_of, rounded, whole_of, word_of
from salus.common.errors import UnreadableImage


def written(tag: int, vr: str | None, value: bytes, *, little: bool = True) -> Dataset:
    """Return a header with one element exactly as a device wrote it."""
    dataset = Dataset()
    dataset._dict[Tag(tag)] = RawDataElement(Tag(tag), vr, len(value), value, 0, vr is None, little)  # type: ignore[index]
    return dataset


SPACING = 0x00280030


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("DS", b"0,143\\0,143 ", (0.143, 0.143)),
        ("DS", b"0.143 ", (0.143,)),
        ("UT", b"2.5000\\2.5000", (2.5, 2.5)),
        ("UN", b"0.5\\0.5 ", (0.5, 0.5)),
        (None, b" 1e-3\\+2. ", (0.001, 2.0)),
        ("DS", b"0.5 mm\\0.5mm", (0.5, 0.5)),
        ("DS", b"0.5\\0.5\0", (0.5, 0.5)),
        ("FD", b"0.264 ", (0.264,)),
        ("FD", b"\0\0\0\0\0\0\xe0?", (0.5,)),
        ("DS", b"", ()),
        ("DS", b"  ", ()),
    ],
)
def test_what_devices_write_is_understood(vr: str | None, value: bytes, expected: tuple[float, ...]) -> None:
    assert numbers_of(written(SPACING, vr, value), "PixelSpacing") == expected


@pytest.mark.parametrize(
    ("vr", "value"),
    [
        ("DS", b"half"),
        ("DS", b"1,000.5"),
        ("DS", b"0.5 cm"),
        ("DS", b"nan"),
        ("DS", b"1e400"),
        ("DS", b"5\\" * 100 + b"5"),
        ("FD", b"abc"),
    ],
)
def test_anything_else_is_refused_by_name_without_quoting_it(vr: str, value: bytes) -> None:
    with pytest.raises(UnreadableImage, match=r"not-understood: PixelSpacing") as caught:
        numbers_of(written(SPACING, vr, value), "PixelSpacing")
    assert value.decode() not in str(caught.value)


@given(st.floats(-1e8, 1e8), st.sampled_from([".", ","]), st.sampled_from(["", " ", "\0", " mm"]))
def test_every_way_to_write_a_number_gives_the_same_number(value: float, point: str, behind: str) -> None:
    text = f"{value:.12g}".replace(".", point) + behind
    assert numbers_of(written(SPACING, "DS", text.encode()), "PixelSpacing") == (rounded(float(f"{value:.12g}")),)


def test_whole_numbers_words_and_sequences_are_checked_as_well() -> None:
    assert whole_of(written(0x00280010, "US", b"\0\x02", little=False), "Rows", 0) == 2
    with pytest.raises(UnreadableImage, match="not-understood: NumberOfFrames"):
        whole_of(written(0x00280008, "IS", b"1.5"), "NumberOfFrames", 1)
    assert word_of(written(0x00080060, "CS", b" ct\0"), "Modality") == "CT"
    with pytest.raises(UnreadableImage, match="not-understood: VOILUTSequence"):
        items_of(written(0x00283010, "OB", b"abcd"), "VOILUTSequence")


def test_several_numbers_where_the_standard_has_one_are_refused_unless_they_are_the_same() -> None:
    slope, window = 0x00281053, 0x00281050
    assert number_of(written(slope, "DS", b"2\\2 "), "RescaleSlope") == 2
    with pytest.raises(UnreadableImage, match="RescaleSlope has several numbers"):
        number_of(written(slope, "DS", b"1\\2 "), "RescaleSlope")
    assert number_of(written(window, "DS", b"40\\400"), "WindowCenter") == 40
