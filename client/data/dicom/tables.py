"""Lookup tables of a header (PS3.3 C.11.1.1): read within bounds, and rebuilt so that they cannot carry text."""

import re
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from salus.client.data.dicom.numbers import items_of, not_understood, numbers_of

DATA = Tag(0x0028, 0x3006)
LENGTHY = 64  # entries; nobody can read a text out of a monotonic table that long
TEXT = re.compile(rb"[A-Za-z0-9^ ._-]{4}")


@dataclass(frozen=True)
class Table:
    """A lookup table.

    Args:
        first: the input that gets the first entry; smaller ones get it too, and inputs beyond the table its last entry.
        bits: of an entry.
        entries: 1 to 65536 numbers below ``2**bits``.
    """

    first: int
    bits: int
    entries: tuple[int, ...]

    @property
    def array(self) -> npt.NDArray[np.uint16]:
        """The entries as an array."""
        return np.array(self.entries, np.uint16)

    def places(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Return the place in the table of each value."""
        inputs: npt.NDArray[np.int64] = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.int64)
        return inputs


def table_of(dataset: Dataset, keyword: str, *, signed: bool) -> Table | None:
    """Return the first table of a sequence, or None if there is none.

    Args:
        signed: whether the inputs may be negative.

    Raises:
        UnreadableImage: ``not-understood``, with the element's name: a descriptor or data that are no table.
    """
    items = items_of(dataset, keyword)
    if not items:
        return None
    descriptor = numbers_of(items[0], "LUTDescriptor")
    if len(descriptor) != 3 or any(number != int(number) for number in descriptor):
        raise not_understood(keyword, "has a LUTDescriptor that is not three whole numbers")
    count, first, bits = (int(number) for number in descriptor)
    count = (count & 0xFFFF) or 2**16
    if not 8 <= bits <= 16:
        raise not_understood(keyword, "has entries of fewer than 8 or more than 16 bits")
    first = first & 0xFFFF
    if signed and first >= 2**15:
        first -= 2**16
    syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    entries = _entries(items[0], count, keyword, little=syntax is None or syntax.is_little_endian)
    largest = max(entries)
    if largest >= 2**bits:  # devices that write 16 bits and say fewer
        bits = largest.bit_length()
    return Table(first, bits, entries)


def _entries(item: Dataset, count: int, keyword: str, *, little: bool) -> tuple[int, ...]:
    element = item.get_item(DATA) if DATA in item else None
    value = None if element is None else element.value
    if isinstance(element, RawDataElement):
        little = element.is_little_endian
    if isinstance(value, bytes):
        if len(value) in (2 * count, 2 * count + 2):
            return struct.unpack(f"{'<' if little else '>'}{count}H", value[: 2 * count])
        if len(value) in (count, count + 1):
            return tuple(value[:count])
    elif value is not None and hasattr(value, "__len__") and not isinstance(value, str) and len(value) == count:
        return tuple(int(number) & 0xFFFF for number in value)
    elif isinstance(value, int) and count == 1:
        return (value & 0xFFFF,)
    raise not_understood(keyword, "has LUTData of another length than its LUTDescriptor says")


def check_harmless(table: Table, keyword: str) -> None:
    """Raise UnreadableImage for a table that could carry text: one that goes up and down, or a short one with letters."""
    steps = np.diff(table.array.astype(np.int32))
    if not ((steps >= 0).all() or (steps <= 0).all()):
        raise not_understood(keyword, "is not monotonic")
    words = table.array
    hidden = any(TEXT.search(words.astype(order).tobytes()) for order in ("<u2", ">u2"))
    if len(table.entries) < LENGTHY and hidden:
        raise not_understood(keyword, f"has fewer than {LENGTHY} entries, which could be text")


def rebuilt(table: Table) -> Dataset:
    """Return the item of a table, written from its numbers alone."""
    item = Dataset()
    item.add_new(Tag(0x0028, 0x3002), "US", [len(table.entries) & 0xFFFF, table.first & 0xFFFF, table.bits])
    item.add_new(DATA, "OW", table.array.astype("<u2").tobytes())
    return item
