"""Both doors for one file, in this process: read in place, and de-identified first."""

import hashlib
import io
import struct
from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from salus.client.data.dicom.decoder_cleaning import _clean
from salus.client.data.dicom.deidentify import Rules
from salus.client.data.dicom.kinds import INCLUDABLE, check_kind_of
from salus.client.data.dicom.picture import DicomImage, guarded, read_image
from salus.common.errors import UnreadableImage

RULES = Rules(
    lambda kind, value: hashlib.sha256(f"{kind} {value}".encode()).hexdigest()[:32], bytes(16), include=INCLUDABLE
)


@dataclass(frozen=True)
class Outcome:
    """An image, or why there is none; and the clean object."""

    image: DicomImage | None = None
    refused: tuple[str, str] | None = None
    clean: bytes = b""


def added(data: bytes) -> Outcome:
    """Return what `salus dataset add` reads."""
    try:
        check_kind_of(data, INCLUDABLE)
        return Outcome(read_image(data, "the file"))
    except UnreadableImage as problem:
        return Outcome(refused=(problem.reason, problem.detail))


def imported(data: bytes, rules: Rules = RULES) -> Outcome:
    """Return what `salus dataset import` stores, as it is read afterwards."""
    try:
        clean = guarded("the file", lambda: _clean(data, rules).data)
    except UnreadableImage as problem:
        return Outcome(refused=(problem.reason, problem.detail))
    try:
        return Outcome(read_image(clean, "the file"), clean=clean)
    except UnreadableImage as problem:
        return Outcome(refused=(problem.reason, problem.detail))


def assert_alike(one: DicomImage, other: DicomImage) -> None:
    """Assert that two images are the same to a model, to the last bit."""
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.intensities, other.intensities)
    np.testing.assert_array_equal(one.rescaled, other.rescaled)
    padded = [np.zeros(i.values.shape, bool) if i.padding is None else i.padding for i in (one, other)]
    np.testing.assert_array_equal(*padded)
    assert one.window == other.window
    assert one.inverted == other.inverted
    assert one.geometry == other.geometry
    assert one.frame_step_mm == other.frame_step_mm
    assert one.info["intensity_range"] == other.info["intensity_range"]


LONG = (b"OB", b"OW", b"OD", b"OF", b"OL", b"SQ", b"UN", b"UT", b"UC", b"UR")


def written(dataset: Dataset, raw: dict[int, tuple[str, bytes]]) -> bytes:
    """Return a file, explicit VR little endian, in which some elements have exactly these bytes, as a device wrote them."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    data = buffer.getvalue()
    for tag, (vr, value) in sorted(raw.items()):
        start, end = _place(data, tag)
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
        head += struct.pack("<xxI" if vr.encode() in LONG else "<H", len(value))
        data = data[:start] + head + value + data[end:]
    return data


def _place(data: bytes, tag: int) -> tuple[int, int]:
    """Return where an element begins and ends, or where it would begin."""
    start = 132
    while start < len(data):
        group, number = struct.unpack_from("<HH", data, start)
        long = data[start + 4 : start + 6] in LONG
        length = struct.unpack_from("<I" if long else "<H", data, start + (8 if long else 6))[0]
        end = start + (12 if long else 8) + length
        if (group << 16 | number) > tag and group != 2:
            return start, start
        if (group << 16 | number) == tag:
            return start, end
        start = end
    return start, start
