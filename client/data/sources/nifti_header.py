"""What the header of a NIfTI file says (NIfTI-1 and NIfTI-2, single files and pairs): one answer, or a refusal by name.

A header can say where a volume lies in three ways (sform, qform, pixdim) and in several units. They are used in this order, as
nibabel does, and the file is refused if two of them contradict each other in the size of a voxel, in handedness or in where the
axes point: readers would then disagree (ITK takes the spacing from pixdim and may prefer the qform). A rigid movement between
sform and qform is no contradiction: the first says where the volume lies in a common space, the second in the scanner.

Source: nifti1.h of the NIfTI Data Format Working Group, 2004; nifti2.h, 2011; `nifti1_io.c` for the quaternion.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from nibabel.nifti1 import header_dtype as FORM_1
from nibabel.nifti2 import header_dtype as FORM_2

from salus.common.errors import UnreadableImage

Float64 = npt.NDArray[np.float64]
MAX_VOXELS = 2**28
MAX_BYTES = 2 * 2**30  # of a volume
MAX_OFFSET = 2**20  # of the voxels in a file; extensions of the header are far smaller
HEADER_BYTES = 544  # of a NIfTI-2 file, its extension flag included; a NIfTI-1 file has 352
SHORTEST = 348
MILLIMETRES = {
    0: 1.0,
    1: 1000.0,
    2: 1.0,
    3: 0.001,
}  # by the code of the unit; unknown ones are millimetres, as ITK has it
UNITS = 7  # mask of the spatial unit in xyzt_units
NUMBERS = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
OTHERS = {
    1: "single bits", 32: "complex numbers", 128: "RGB colour", 1536: "numbers of 128 bits", 1792: "complex numbers",
    2048: "complex numbers", 2304: "RGBA colour",
}  # fmt: skip
SAME_SIDE = 0.01  # relative; by which the voxel sizes of pixdim, qform and sform may differ


@dataclass(frozen=True)
class Header:
    """What a header says.

    Args:
        shape: x, y, z, and what comes after them; trailing dimensions of one are left out.
        dtype: of the stored numbers.
        offset: of the first voxel in its file.
        scaling: slope and intercept of the stored numbers; None for numbers as they are.
        affine: ``[4, 4]`` from an index (x, y, z) to millimetres, RAS.
        sides_mm: of a voxel along x, y and z.
        placed: whether the file says where the volume lies; else the affine comes from its spacing alone.
        pair: whether the voxels lie in another file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    offset: int
    scaling: tuple[float, float] | None
    affine: Float64
    sides_mm: tuple[float, float, float]
    placed: bool
    pair: bool

    @property
    def size(self) -> int:
        """Bytes of the file with the voxels, as declared."""
        return self.offset + int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


def header_of(head: bytes) -> Header:
    """Return a header's meaning.

    Args:
        head: the first `HEADER_BYTES` bytes of a file, or all of a shorter one.

    Raises:
        UnreadableImage: ``damaged``, ``unsupported``, ``too-large``, ``not-understood``, ``bad-geometry`` or ``two-geometries``.
    """
    raw = _raw(head)
    pair = _is_pair(raw)
    shape = _shape(raw)
    offset = _offset(raw, pair=pair)
    code = int(raw["datatype"])
    if code in OTHERS:
        raise UnreadableImage("unsupported", f"datatype {code}: {OTHERS[code]}, which is no grey picture")
    if code not in NUMBERS:
        raise UnreadableImage("not-understood", f"datatype {code}")
    dtype = np.dtype(NUMBERS[code]).newbyteorder(raw.dtype["dim"].base.byteorder)
    affine, placed = _space(raw)
    header = Header(shape, dtype, offset, _scaling(raw), affine, _sides(raw, affine), placed, pair)
    voxels = int(np.prod(shape, dtype=object))
    if voxels > MAX_VOXELS or header.size > MAX_BYTES:
        raise UnreadableImage("too-large", f"it declares {voxels} voxels")
    return header


def _raw(head: bytes) -> np.void:
    """Return the fields of a header in their own byte order."""
    for form, length in ((FORM_1, 348), (FORM_2, 540)):
        for order in ("<", ">"):
            ordered = form.newbyteorder(order)
            if len(head) >= length and int(np.frombuffer(head[:4], f"{order}i4")[0]) == length:
                found: np.void = np.frombuffer(head[:length], ordered)[0]
                return found
    raise UnreadableImage("damaged", "no valid NIfTI header")


def _is_pair(raw: np.void) -> bool:
    magic = bytes(raw["magic"]).rstrip(b"\0")[:3]
    if magic in (b"n+1", b"n+2"):
        return False
    if magic in (b"ni1", b"ni2"):
        return True
    if magic:
        raise UnreadableImage("damaged", "no valid NIfTI header")
    raise UnreadableImage(
        "unsupported", "an ANALYZE file, which does not say where left and right are; convert it to NIfTI"
    )


def _shape(raw: np.void) -> tuple[int, ...]:
    sides = [int(side) for side in raw["dim"]]
    if not 1 <= sides[0] <= 7 or not all(1 <= side < 2**31 for side in sides[1 : sides[0] + 1]):
        raise UnreadableImage("damaged", "dim is not the size of a volume")
    shape = sides[1 : sides[0] + 1]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    return (*shape, *[1] * (3 - len(shape)))


def _offset(raw: np.void, *, pair: bool) -> int:
    offset = float(raw["vox_offset"])
    least = 0 if pair else int(raw["sizeof_hdr"]) + 4
    if offset != round(offset) or offset < least:
        raise UnreadableImage("not-understood", f"vox_offset, which is {offset:g}")
    if offset > MAX_OFFSET:
        raise UnreadableImage("too-large", "vox_offset lies far behind the header")
    return int(offset)


def _scaling(raw: np.void) -> tuple[float, float] | None:
    slope, inter = float(raw["scl_slope"]), float(raw["scl_inter"])
    if slope == 0 or np.isnan(slope):  # the numbers as they are (nifti1.h); software writes NaN where it means the same
        return None
    if not np.isfinite([slope, inter]).all():
        raise UnreadableImage("not-understood", f"scl_slope {slope:g} with scl_inter {inter:g}")
    return slope, inter


def _space(raw: np.void) -> tuple[Float64, bool]:
    """Return the affine in millimetres, and whether the file gives one."""
    code = int(raw["xyzt_units"]) & UNITS
    if code not in MILLIMETRES:
        raise UnreadableImage("not-understood", f"xyzt_units, whose spatial unit is {code}")
    sides = np.abs(np.asarray(raw["pixdim"][1:4], np.float64))
    found: dict[str, Float64] = {}
    if int(raw["sform_code"]) > 0:
        found["sform"] = np.vstack([*(np.asarray(raw[f"srow_{axis}"], np.float64) for axis in "xyz"), [0, 0, 0, 1]])
    if int(raw["qform_code"]) > 0:
        found["qform"] = _qform(raw, sides)
    for name, affine in found.items():
        if not np.isfinite(affine).all() or not abs(np.linalg.det(affine)) > 0:
            raise UnreadableImage("bad-geometry", f"{name} does not say where the voxels lie")
    if "sform" in found:
        _check_agreement(found, sides)
    scale = np.diag([*[MILLIMETRES[code]] * 3, 1.0])
    for name in ("sform", "qform"):
        if name in found:
            return scale @ found[name], True
    if not ((sides > 0) & np.isfinite(sides)).all():
        raise UnreadableImage("bad-geometry", "pixdim is not the size of a voxel")
    middle = (
        np.array(_shape(raw)[:3]) - 1
    ) / 2  # as in the files of ANALYZE 7.5: the origin in the middle, x to the left
    affine = np.diag([-sides[0], sides[1], sides[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ middle
    return scale @ affine, False


def _sides(raw: np.void, affine: Float64) -> tuple[float, float, float]:
    """Return the sides of a voxel: those of pixdim where the affine, kept in single precision, has the same."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    stated = np.abs(np.asarray(raw["pixdim"][1:4], np.float64)) * MILLIMETRES[int(raw["xyzt_units"]) & UNITS]
    x, y, z = (float(side) for side in np.where(np.isclose(lengths, stated, rtol=1e-4, atol=0), stated, lengths))
    return x, y, z


def _qform(raw: np.void, sides: Float64) -> Float64:
    """Return the matrix of a quaternion (b, c, d), with the third axis turned round where pixdim[0] is negative."""
    b, c, d = (float(raw[f"quatern_{name}"]) for name in "bcd")
    rest = 1.0 - (b * b + c * c + d * d)
    if not rest > -0.01:  # NaN included
        raise UnreadableImage("bad-geometry", "quatern_b, quatern_c and quatern_d are not a rotation")
    if rest < 1e-7:  # nifti1_io.c: a half turn whose rounding made it longer than a unit
        length = np.sqrt(b * b + c * c + d * d)
        a, b, c, d = 0.0, b / length, c / length, d / length
    else:
        a = float(np.sqrt(rest))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * sides * [1.0, 1.0, -1.0 if float(raw["pixdim"][0]) < 0 else 1.0]
    affine[:3, 3] = [float(raw[f"qoffset_{axis}"]) for axis in "xyz"]
    return affine


def _check_agreement(found: dict[str, Float64], sides: Float64) -> None:
    """Raise UnreadableImage if what a header says in several ways cannot all be true."""
    sform = found["sform"][:3, :3]
    lengths = np.linalg.norm(sform, axis=0)
    if sides.all() and not np.allclose(lengths, sides, rtol=SAME_SIDE, atol=0):
        raise UnreadableImage(
            "two-geometries", "pixdim and sform give different sizes of a voxel; correct the one that is wrong"
        )
    if "qform" not in found:
        return
    qform = found["qform"][:3, :3]
    cosines = (sform / lengths * (qform / np.linalg.norm(qform, axis=0))).sum(axis=0)
    if np.linalg.det(sform) * np.linalg.det(qform) < 0 or cosines.min() < np.sqrt(0.5):
        raise UnreadableImage(
            "two-geometries", "sform and qform point the axes in different directions; remove the wrong one"
        )
