"""Reads one NIfTI file: bounded before it is decompressed, and brought to the axes of DICOM volumes."""

import gzip
import io
import zlib
from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from salus.client.data.records import FloatArray
from salus.client.data.sources.base import Files
from salus.common.errors import UnreadableImage

MAX_VOXELS = 2**28
MAX_BYTES = 2 * 2**30  # of a volume
MAX_OFFSET = 2**20  # of the voxels in a file; extensions of the header are far smaller
HEADER_BYTES = 352
MAX_EXPANSION = 200  # of a compressed image; scans compress about 3 to 1, a brain in an empty frame 30 to 1
NIFTI_TO_DICOM = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI's axes point right, front and up; DICOM's left, back and up


@dataclass(frozen=True)
class NiftiVolume:
    """A decoded file.

    Args:
        values: ``[channels, z, y, x]`` along head, back and left.
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


def read_bytes(files: Files, name: str, *, mask: bool) -> bytes:
    """Return a file's decompressed bytes, and no more of them than its header declares.

    Args:
        mask: the file may be nearly empty, so that it expands more than an image; it stays in the child until it is checked.

    Raises:
        UnreadableImage: ``missing``, ``unreadable``, ``damaged`` or ``too-large``.
    """
    head = bytes(files.read(name, 0, HEADER_BYTES))
    if head[:2] == b"\x1f\x8b":
        data = bytes(files.read(name))
        return expanded(data, MAX_BYTES if mask else MAX_EXPANSION * len(data))
    return bytes(files.read(name, 0, _declared_bytes(head)))  # a sparse file may have gigabytes behind it


def expanded(data: bytes, most: int) -> bytes:
    """Return decompressed gzip data: as many bytes as the volume's own header declares, at most."""
    try:
        with gzip.open(io.BytesIO(data)) as file:
            head = file.read(HEADER_BYTES)
            expected = _declared_bytes(head)
            if expected > most:
                raise UnreadableImage("too-large", f"it would expand by more than {MAX_EXPANSION} times")
            return head + file.read(max(expected - len(head), 0))  # not a byte more
    except (OSError, EOFError, zlib.error):
        raise UnreadableImage("damaged", "the file cannot be decompressed") from None


def _declared_bytes(head: bytes) -> int:
    try:
        header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(head[:348]))  # type: ignore[no-untyped-call]
        voxels = int(np.prod([int(side) for side in header.get_data_shape()], dtype=object))
        offset = int(header["vox_offset"])
        size = offset + voxels * int(header.get_data_dtype().itemsize)
    except Exception:  # nibabel raises its own errors, ValueError, OverflowError ... on damaged headers
        raise UnreadableImage("damaged", "no valid NIfTI header") from None
    if not 0 < voxels <= MAX_VOXELS or not 0 < size <= MAX_BYTES or not 0 <= offset <= MAX_OFFSET:
        raise UnreadableImage("too-large", f"it declares {voxels} voxels")
    return size


def decoded(data: bytes, channels: int = 1) -> NiftiVolume:
    """Return the volume in a file's bytes.

    Args:
        channels: volumes that a four-dimensional file must hold; a file without a fourth dimension has one.

    Raises:
        UnreadableImage: ``damaged``, ``unsupported``, ``not-finite`` or ``bad-geometry``.
    """
    if len(data) < HEADER_BYTES or len(data) < _declared_bytes(data[:HEADER_BYTES]):
        raise UnreadableImage("damaged", "shorter than its header declares")
    try:
        image: Any = nibabel.Nifti1Image.from_bytes(data)
        space: Any = nibabel.orientations
        placed = bool(image.header["sform_code"] or image.header["qform_code"])
        axes = "".join(space.aff2axcodes(image.affine))
        dicom_axes = space.axcodes2ornt(("L", "P", "S"))
        turned = image.as_reoriented(space.ornt_transform(space.io_orientation(image.affine), dicom_axes))
        values: FloatArray = np.asarray(turned.get_fdata(dtype=np.float32))
        spacing = [float(side) for side in turned.header.get_zooms()[:3]]
        affine = np.array(NIFTI_TO_DICOM @ turned.affine, np.float64)[:, [2, 1, 0, 3]]
    except Exception:  # see above
        raise UnreadableImage("damaged", "the file cannot be decoded") from None
    count = values.shape[3] if values.ndim == 4 else 1
    if values.ndim not in (3, 4) or count not in (1, channels) or min(values.shape) < 1 or len(spacing) != 3:
        raise UnreadableImage("unsupported", "not a single three-dimensional volume")
    if not np.isfinite(values).all() or not all(0 < side < np.inf for side in spacing):
        raise UnreadableImage("not-finite", "voxels or spacing that are not finite")
    if not np.isfinite(affine).all() or not abs(np.linalg.det(affine)) > 0:
        raise UnreadableImage("bad-geometry", "the file does not say where its voxels lie")
    volume = np.ascontiguousarray(values.reshape(*values.shape[:3], count).transpose(3, 2, 1, 0))
    return NiftiVolume(volume, (spacing[2], spacing[1], spacing[0]), affine, placed, axes)
