"""From a file's bytes to its elements: deflated files within a bound, files without preamble or transfer syntax."""

import io
import zlib

import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from salus.common.errors import UnreadableImage

SHORTEST = 132  # bytes of the preamble and its mark
MOST_TIMES = 200  # that a deflated file may expand
ALWAYS_BYTES, MOST_BYTES = 2**26, 2**29  # that it may expand to, whatever its size; and at most
HEAD_BYTES = 2**16  # in which the transfer syntax is named
ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # where an item of a sequence begins, in either byte order
MOST_ITEMS = 500_000  # each takes more than a kilobyte of memory; an object of 20 000 frames has about 300 000
FIRST_TAGS = tuple(
    bytes((group, 0, element, 0)) for group, element in ((8, 0), (8, 1), (8, 5), (8, 8), (8, 0x16), (2, 0))
)


def open_dataset(data: bytes) -> FileDataset:
    """Return the elements of a file; its transfer syntax is always stated afterwards.

    Damaged files make it raise arbitrary exceptions; call it within `guarded`.

    Raises:
        UnreadableImage: ``not-dicom``, or ``too-large`` for a deflated file that expands beyond its bound, or more than
            `MOST_ITEMS` items of sequences.
    """
    if len(data) < SHORTEST:
        raise UnreadableImage("not-dicom", "it is shorter than a DICOM header")
    data = undeflated(data)
    if any(data.count(item) > MOST_ITEMS for item in ITEMS):
        raise UnreadableImage("too-large", f"its sequences have more than {MOST_ITEMS} items")
    dataset = pydicom.dcmread(io.BytesIO(data), force=is_bare(data))
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    if not str(dataset.file_meta.get("TransferSyntaxUID", "") or ""):
        dataset.file_meta.TransferSyntaxUID = _as_read(dataset)
    return dataset


def is_bare(data: bytes) -> bool:
    """Return whether a file without preamble begins with an element that only DICOM begins with."""
    return data[128:132] != b"DICM" and data[:4] in FIRST_TAGS


def undeflated(data: bytes) -> bytes:
    """Return a deflated file as an explicit one, and any other as it is.

    Raises:
        UnreadableImage: ``too-large`` beyond `MOST_TIMES` and `ALWAYS_BYTES`, or beyond `MOST_BYTES`; ``damaged`` if truncated.
    """
    if data[128:132] != b"DICM" or DeflatedExplicitVRLittleEndian.encode() not in data[:HEAD_BYTES]:
        return data  # to search for it takes less than to parse
    file = io.BytesIO(data)
    read_preamble(file, force=False)
    meta = _read_file_meta_info(file)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return data
    bound = min(max(MOST_TIMES * len(data), ALWAYS_BYTES), MOST_BYTES)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflater.decompress(memoryview(data)[file.tell() :], bound)
    except zlib.error:
        raise UnreadableImage("damaged", "its deflated elements are damaged") from None
    if inflater.unconsumed_tail:
        raise UnreadableImage("too-large", f"deflated, and expands to more than {bound} bytes")
    if not inflater.eof:
        raise UnreadableImage("damaged", "its deflated elements end too early")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    head = DicomBytesIO()
    head.is_little_endian, head.is_implicit_VR = True, False
    write_file_meta_info(head, meta, enforce_standard=False)
    return b"".join((data[:SHORTEST], head.getvalue(), body))


def _as_read(dataset: FileDataset) -> UID:
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian
