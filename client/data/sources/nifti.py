"""Reads one NIfTI file: bounded before it is decompressed, and brought to the axes of DICOM volumes."""

import gzip
import io
import zlib
from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.volumeutils import apply_read_scaling

from salus.client.data.records import FloatArray
from salus.client.data.sources.base import Files
from salus.client.data.sources.nifti_header import HEADER_BYTES, MAX_BYTES, SHORTEST, Header, header_of
from salus.common.errors import UnreadableImage

MAX_EXPANSION = 200  # of a compressed image; scans compress about 3 to 1, a brain in an empty frame 30 to 1
NIFTI_TO_DICOM = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI's axes point right, front and up; DICOM's left, back and up
GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class NiftiVolume:
    """A decoded file.

    Args:
        values: ``[volumes, z, y, x]`` along head, back and left.
        spacing_mm: along z, y and x.
        affine: ``[4, 4]`` from an index (z, y, x) to millimetres, LPS; from the file's spacing alone if `placed` is false.
        placed: whether the file says where the volume lies.
        axes: where the axes of the file itself point, such as ``RAS``.
    """

    values: FloatArray
    spacing_mm: tuple[float, float, float]
    affine: npt.NDArray[np.float64]
    placed: bool
    axes: str = ""

    @property
    def voxel_ml(self) -> float:
        """The volume of a voxel in millilitres."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0


@dataclass(frozen=True)
class Stored:
    """The bytes of a volume, decompressed.

    Args:
        parts: the stored bytes of its files, whose hashes identify it.
    """

    header: Header
    data: bytes
    parts: tuple[bytes, ...]


def read_stored(files: Files, name: str, *, mask: bool, header: str = "") -> Stored:
    """Return a volume's bytes, decompressed, and no more of them than its header declares.

    Args:
        mask: the file may be nearly empty, so that it expands more than an image; it stays in the child until it is checked.
        header: the other file of a pair; empty for a single file.

    Raises:
        UnreadableImage: ``missing``, ``unreadable``, ``damaged`` or ``too-large``, and as `nifti_header.header_of`.
    """
    if not header:
        data = read_bytes(files, name, mask=mask)
        return Stored(single_header(data), data, (data,))
    head = bytes(files.read(header, 0, HEADER_BYTES))
    if head[:2] == GZIP:
        head = expanded(bytes(files.read(header)), HEADER_BYTES, whole=False)
    found = header_of(head)
    if not found.pair:
        raise UnreadableImage("damaged", "the header of a pair says that its voxels are in the same file")
    if bytes(files.read(name, 0, 2)) == GZIP:
        packed = bytes(files.read(name))
        data = unpacked(packed, found.size, MAX_BYTES if mask else MAX_EXPANSION * len(packed))
    else:
        data = bytes(files.read(name, 0, found.size))
    return Stored(found, data, (head, data))


def read_bytes(files: Files, name: str, *, mask: bool) -> bytes:
    """Return a single file's decompressed bytes, and no more of them than its header declares; errors as `read_stored`."""
    head = bytes(files.read(name, 0, HEADER_BYTES))
    if head[:2] == GZIP:
        data = bytes(files.read(name))
        return expanded(data, MAX_BYTES if mask else MAX_EXPANSION * len(data))
    return bytes(files.read(name, 0, single_header(head).size))  # a sparse file may have gigabytes behind it


def single_header(head: bytes) -> Header:
    """Return the header of a single file; raises UnreadableImage as `header_of`, and for one whose voxels are elsewhere."""
    found = header_of(head[:HEADER_BYTES])
    if found.pair:
        raise UnreadableImage("damaged", "the header says that the voxels are in another file, but its name does not")
    return found


def expanded(data: bytes, most: int, *, whole: bool = True) -> bytes:
    """Return decompressed gzip data: as many bytes as the volume's own header declares, at most.

    Args:
        whole: False for the header only.
    """
    head = unpacked(data, HEADER_BYTES, HEADER_BYTES)
    return unpacked(data, single_header(head).size, most) if whole else head


def unpacked(data: bytes, size: int, most: int) -> bytes:
    """Return the first `size` bytes of gzip data; raises UnreadableImage for more than `most`, or damaged data."""
    if size > most:
        raise UnreadableImage("too-large", f"it would expand by more than {MAX_EXPANSION} times")
    try:
        with gzip.open(io.BytesIO(data)) as file:
            return file.read(size)  # not a byte more
    except (OSError, EOFError, zlib.error):
        raise UnreadableImage("damaged", "the file cannot be decompressed") from None


def decoded(stored: Stored) -> NiftiVolume:
    """Return the volumes in a file's bytes, one for each index of the dimensions behind z.

    Raises:
        UnreadableImage: ``damaged``, ``unsupported`` or ``not-finite``.
    """
    header, data = stored.header, stored.data
    if len(data) < max(header.size, 0 if header.pair else SHORTEST):
        raise UnreadableImage("damaged", "shorter than its header declares")
    if min(header.shape[:3]) < 1 or len(header.shape) > 5 or (len(header.shape) == 5 and header.shape[3] != 1):
        raise UnreadableImage("unsupported", f"{len(header.shape)} dimensions")
    raw = np.frombuffer(data, header.dtype, int(np.prod(header.shape)), header.offset)
    count = int(np.prod(header.shape[3:]))
    space: Any = nibabel.orientations
    turn = space.ornt_transform(space.io_orientation(header.affine), space.axcodes2ornt(("L", "P", "S")))
    parts = [
        space.apply_orientation(_scaled(part, header).reshape(header.shape[:3], order="F"), turn)
        for part in raw.reshape(count, -1)
    ]
    values = np.ascontiguousarray(np.stack(parts).transpose(0, 3, 2, 1))
    if not np.isfinite(values).all():
        share = float(1 - np.isfinite(values).mean())
        raise UnreadableImage("not-finite", f"{share:.0%} of the voxels are not numbers; give the background a value")
    affine = NIFTI_TO_DICOM @ header.affine @ space.inv_ornt_aff(turn, header.shape[:3])
    sides = dict(zip(turn[:, 0].astype(int).tolist(), header.sides_mm, strict=True))
    spacing = (sides[2], sides[1], sides[0])
    axes = "".join(space.aff2axcodes(header.affine))
    return NiftiVolume(values, spacing, affine[:, [2, 1, 0, 3]], header.placed, axes)


def _scaled(part: npt.NDArray[Any], header: Header) -> FloatArray:
    """Return numbers with their scaling, as nibabel has it: in double precision, then float32."""
    if header.scaling is None:
        return part.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
        scaled = apply_read_scaling(part, np.float64(header.scaling[0]), np.float64(header.scaling[1]))
        return np.asarray(scaled, np.float32)
