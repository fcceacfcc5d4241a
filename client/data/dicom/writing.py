"""Writes a de-identified object as a DICOM file: explicit VR, little endian (PS3.10 section 7, PS3.5 annex A.2).

The bytes are those of `pydicom.dcmwrite`, which takes several times as long: it copies, validates and corrects what has just been
built. An object with an element of a kind that is not known here is left to pydicom.
"""

import io
import struct
from collections.abc import Callable, Iterable

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

IMPLEMENTATION = "2.25.155264312907217263812330245718302456781"  # a fixed UUID of this software
VERSION_NAME = "SALUS 1"  # fixed, so that an image has the same hash whatever version of a library wrote it
LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}  # length in 4 bytes
NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
TEXTS = {"AE", "AS", "CS", "DA", "LO", "LT", "SH", "ST", "TM", "UI", "UT"}
LUT_DESCRIPTORS = 0x00281101, 0x00281102, 0x00281103, 0x00283002  # signed ones have an unsigned first value
SHORTEST_LONG = 0x10000


class _UnknownError(Exception):
    """An element that this module does not write."""


def as_file(clean: Dataset) -> bytes:
    """Return the object as a DICOM file."""
    try:
        body = _elements(clean.values())
        head = _head(str(clean.SOPClassUID), str(clean.SOPInstanceUID))
    except (_UnknownError, UnicodeEncodeError, struct.error, TypeError, AttributeError):
        return by_pydicom(clean)
    length = _element(0x00020000, "UL", struct.pack("<I", len(head)))
    return b"".join((bytes(128), b"DICM", length, head, body))


def by_pydicom(clean: Dataset) -> bytes:
    """Return the same file, written by pydicom."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = clean.SOPClassUID, clean.SOPInstanceUID
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, UID(IMPLEMENTATION)
    meta.ImplementationVersionName = VERSION_NAME
    buffer = io.BytesIO()
    whole = FileDataset(buffer, clean, file_meta=meta, preamble=bytes(128))
    pydicom.dcmwrite(buffer, whole, enforce_file_format=True)
    return buffer.getvalue()


def _head(kind: str, instance: str) -> bytes:
    """Return the file meta information without its length."""
    elements = [
        (0x00020001, "OB", b"\0\1"),
        (0x00020002, "UI", kind.encode("ascii")),
        (0x00020003, "UI", instance.encode("ascii")),
        (0x00020010, "UI", ExplicitVRLittleEndian.encode("ascii")),
        (0x00020012, "UI", IMPLEMENTATION.encode("ascii")),
        (0x00020013, "SH", VERSION_NAME.encode("ascii")),
    ]
    return b"".join(_element(*element) for element in elements)


def _elements(elements: Iterable[object]) -> bytes:
    """Return elements in the order of their tags."""
    parts: dict[int, bytes] = {}
    for element in elements:
        if not isinstance(element, DataElement):
            raise _UnknownError  # not parsed yet
        tag = int(element.tag)
        parts[tag] = _element(tag, element.VR, _value(element))
    return b"".join(part for _, part in sorted(parts.items()))


def _element(tag: int, vr: str, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB", "UN") else b" "
    if vr in LONG:
        return struct.pack("<HH2sxxI", tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value
    if len(value) >= SHORTEST_LONG:
        raise _UnknownError
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value


def _value(element: DataElement) -> bytes:
    """Return the bytes of a value, not padded."""
    vr, value = element.VR, element.value
    if element.is_undefined_length and vr != "SQ":
        raise _UnknownError
    if vr == "SQ":
        return b"".join(_item(item) for item in value)
    if value is None or value == "" or (isinstance(value, list) and not value):
        return b""
    if vr in ("OB", "OW", "UN"):
        return bytes(value)
    parts = list(value) if element.VM > 1 else [value]
    if vr in NUMBERS:
        if int(element.tag) in LUT_DESCRIPTORS:
            raise _UnknownError
        return struct.pack(f"<{len(parts)}{NUMBERS[vr]}", *parts)
    return "\\".join(_text(vr)(part) for part in parts).encode("ascii")


def _item(item: Dataset) -> bytes:
    if getattr(item, "is_undefined_length_sequence_item", False):
        raise _UnknownError
    body = _elements(item.values())
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body


def _text(vr: str) -> Callable[[object], str]:
    if vr in ("IS", "DS"):
        return _number
    if vr == "PN" or vr in TEXTS:
        return str
    raise _UnknownError


def _number(value: object) -> str:
    """Return a decimal number as it was read, or as it was set."""
    text = getattr(value, "original_string", None)
    return text if isinstance(text, str) else str(value)
