"""Palette colours to RGB (PS3.3 C.7.6.3.1.5, C.7.9): tables in either byte order, plain or in segments."""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import _expand_segmented_lut

from salus.client.data.dicom.numbers import has, not_understood, numbers_of, safely

COLOURS = ("Red", "Green", "Blue")
MOST_SEGMENTS_BYTES = 2**18  # of one segmented table; what it expands to is bounded by the child's memory


def coloured(dataset: Dataset, pixels: npt.NDArray[Any], *, signed: bool) -> npt.NDArray[Any]:
    """Return colours ``[frames, rows, columns, 3]`` of 8 or 16 bits.

    Args:
        pixels: ``[frames, rows, columns]``, places in the palette.
        signed: whether they may be negative.

    Raises:
        UnreadableImage: ``not-understood``, with the element's name: a table that is missing or of another length than it says.
    """
    tables = [_table(dataset, colour, signed=signed) for colour in COLOURS]
    dtype = np.uint8 if all(entries.dtype == np.uint8 for _, entries in tables) else np.uint16
    result = np.empty((*pixels.shape, 3), dtype)
    for number, (first, entries) in enumerate(tables):
        if entries.dtype != dtype:  # a table of 8 bits beside others of 16
            entries = entries.astype(np.uint16) * 257
        for row, part in enumerate(pixels):
            places = np.clip(part.astype(np.int64) - first, 0, len(entries) - 1)
            result[row, ..., number] = entries[places]
    return result


def _table(dataset: Dataset, colour: str, *, signed: bool) -> tuple[int, npt.NDArray[Any]]:
    name = f"{colour}PaletteColorLookupTable"
    descriptor = numbers_of(dataset, f"{name}Descriptor")
    if len(descriptor) != 3 or any(number != int(number) for number in descriptor):
        raise not_understood(f"{name}Descriptor", "is missing or not three whole numbers")
    count, first, bits = (int(number) for number in descriptor)
    count, first = (count & 0xFFFF) or 2**16, first & 0xFFFF
    if bits not in (8, 16):
        raise not_understood(f"{name}Descriptor", "states neither 8 nor 16 bits")
    if signed and first >= 2**15:
        first -= 2**16
    little = bool(dataset.file_meta.TransferSyntaxUID.is_little_endian)
    if has(dataset, f"{name}Data"):
        return first, _plain(_words(dataset, f"{name}Data", little=little), count, bits, f"{name}Data")
    return first, _segmented(
        _words(dataset, f"Segmented{name}Data", little=little), count, bits, f"Segmented{name}Data"
    )


def _words(dataset: Dataset, keyword: str, *, little: bool) -> bytes:
    """Return a table's bytes in little-endian order."""
    value = dataset[keyword].value if has(dataset, keyword) else b""
    if not isinstance(value, bytes) or not value:
        raise not_understood(keyword, "is missing or not a table")
    even = value + b"\0" * (len(value) % 2)
    return even if little else np.frombuffer(even, ">u2").astype("<u2").tobytes()


def _plain(data: bytes, count: int, bits: int, keyword: str) -> npt.NDArray[Any]:
    if len(data) == 2 * count:  # devices that say 8 bits write 16, or 8 in words (PS3.3 C.7.6.3.1.6)
        words = np.frombuffer(data, "<u2")
        return words.astype(np.uint8 if bits == 8 and words.max() < 2**8 else np.uint16)
    if len(data) in (count, count + 1):
        return np.frombuffer(data[:count], np.uint8)
    raise not_understood(keyword, "has another length than its descriptor says")


def _segmented(data: bytes, count: int, bits: int, keyword: str) -> npt.NDArray[Any]:
    code = "B" if bits == 8 else "H"
    if len(data) > MOST_SEGMENTS_BYTES:
        raise not_understood(keyword, f"has more than {MOST_SEGMENTS_BYTES} bytes")
    layout = f"<{len(data) // struct.calcsize(code)}{code}"
    entries = safely(lambda: _expand_segmented_lut(struct.unpack(layout, data), layout), None)
    if entries is None or len(entries) < count:
        raise not_understood(keyword, "does not expand to what its descriptor says")
    return np.array(entries[:count], np.int64).clip(0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)
