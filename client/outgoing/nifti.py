"""Masks and images as NIfTI-1 files: RAS, millimetres, with the affine of the source."""

import gzip
from pathlib import Path

import nibabel
import numpy as np

from salus.common.errors import DataError
from salus.common.examples import Affine, Array
from salus.common.files import write_whole

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
REVERSED = np.eye(4)[[2, 1, 0, 3]]  # from an index (x, y, z) to (z, y, x)
SCANNER, MILLIMETRES = 1, "mm"


def write_nifti(path: Path, mask: Array, affine: Affine, axes: str = "") -> None:
    """Write a mask as ``.nii.gz``, completely or not at all; the same mask always gives the same bytes.

    Args:
        mask: ``[z, y, x]`` numbers of structures from 0 to 65535; or ``[structures, z, y, x]`` where they may overlap, which
            becomes the file's fourth axis.
        affine: ``[4, 4]`` from an index (z, y, x) to millimetres, LPS.
        axes: where the axes of the file are to point, such as those of the image's own file, so that the two can be compared
            index by index; empty for left, back and up.

    Raises:
        DataError: a mask of another kind, or an affine that is not finite.
    """
    if (
        mask.ndim not in (3, 4)
        or (mask.size and (mask.min() < 0 or mask.max() > 65535))
        or mask.dtype.kind not in "bui"
    ):
        raise DataError(
            f"Expected a mask of whole numbers from 0 to 65535 with three axes, got {mask.dtype} with {mask.ndim}.",
            remedy="Use a job of a segmentation.",
        )
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise DataError("Expected a position in the patient for every voxel.", remedy="Use images with a geometry.")
    _write(path, mask.astype(np.uint8 if mask.size == 0 or mask.max() < 256 else np.uint16), affine, axes)


def write_image(path: Path, values: Array, affine: Affine, axes: str = "") -> None:
    """Write an image as ``.nii.gz``, float32, as `write_nifti` does a mask.

    Args:
        values: ``[z, y, x]``, or ``[channels, z, y, x]``, whose channels become the file's fourth axis.
    """
    if values.ndim not in (3, 4) or affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise DataError("Expected an image with three axes and a place for every voxel.", remedy="Use a volume.")
    _write(path, values.astype(np.float32), affine, axes)


def _write(path: Path, values: Array, affine: Affine, axes: str) -> None:
    turned = np.moveaxis(values, 0, -1).transpose(2, 1, 0, 3) if values.ndim == 4 else values.transpose(2, 1, 0)
    image = nibabel.Nifti1Image(turned, LPS_TO_RAS @ affine @ REVERSED)  # type: ignore[no-untyped-call]
    if axes:
        space = nibabel.orientations
        have = space.io_orientation(image.affine)  # type: ignore[no-untyped-call]
        want = space.axcodes2ornt(tuple(axes))  # type: ignore[no-untyped-call]
        image = image.as_reoriented(space.ornt_transform(have, want))  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units(MILLIMETRES)  # type: ignore[no-untyped-call]
    image.set_sform(image.affine, SCANNER)  # type: ignore[no-untyped-call]
    # The shear of a tilted gantry is in the sform alone, which readers prefer.
    image.set_qform(image.affine, SCANNER)  # type: ignore[no-untyped-call]
    write_whole(path, gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
