"""A folder of NIfTI volumes, one patient each unless the label file says otherwise; labels from a CSV or from masks.

With masks the label is the mask's volume in millilitres: of all its voxels above zero, or with `label_column` a number, of
the voxels of that class. `positive_above` turns it into ``1`` or ``0``.
"""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from salus.client.data.dicom import Window, show
from salus.client.data.records import FloatArray, ImageRecord, Quarantined, Sample, array_digest
from salus.client.data.sources.base import SourceOptions, Stamp, stamp_of
from salus.client.data.sources.labels import LabelRow, read_labels
from salus.common.errors import DataError, UnreadableImage

SUFFIXES = (".nii", ".nii.gz")
MAX_VOXELS = 2**28
MAX_BYTES = 4 * 2**30  # of a decompressed file
HEADER_BYTES = 352


class NiftiFolder:
    """Every ``.nii`` and ``.nii.gz`` below `root`, brought to the axes of DICOM volumes: z up, y back, x left."""

    def __init__(self, root: Path, options: SourceOptions) -> None:
        self._root, self._options = root, options
        self._masks = root / options.masks if options.masks else None
        if self._masks is not None and not self._masks.is_dir():
            raise DataError(
                f"Expected a folder of masks {options.masks!r} in the data folder.", remedy="Check --masks."
            )
        self._labels = None if self._masks is not None else read_labels(root, options)

    def scan(self) -> Iterator[ImageRecord | Quarantined]:
        for path in sorted(self._root.rglob("*")):
            inside = self._masks is not None and self._masks in path.parents
            if not path.name.endswith(SUFFIXES) or inside or path.is_symlink() or path.name.startswith("."):
                continue
            key = path.relative_to(self._root).as_posix()
            try:
                sample = self.load(key)
                row = self._label(key)
            except UnreadableImage as problem:
                yield Quarantined(key, problem.reason, problem.detail)
                continue
            shape = sample.values.shape
            info: dict[str, str | float | int | list[float]] = {
                "modality": "MR",
                "slices": shape[1],
                "rows": shape[2],
                "columns": shape[3],
                "spacing_mm": list(sample.spacing_mm),
                "intensity_range": [float(sample.measured.min()), float(sample.measured.max())],
            }
            patient = row.patient or key
            yield ImageRecord(
                patient, patient, key, row.label, row.split, sample.sha256, sample.pixel_sha256, info=info
            )

    def load(self, key: str) -> Sample:
        """Return ``[1, z, y, x]``, stretched from its smallest to its largest value."""
        data = _read(self._root / key)
        values, spacing = _volume(data)
        shown = show(values, Window(), inverted=False)
        digest = hashlib.sha256(data).hexdigest()
        return Sample(shown[None], spacing, sha256=digest, intensities=values[None], pixel_sha256=array_digest(values))

    def stamp(self, key: str) -> Stamp | None:
        return stamp_of([self._root / key])

    def _label(self, key: str) -> LabelRow:
        if self._labels is not None:
            row = self._labels.find(file=key) or self._labels.find(file=Path(key).name)
            if row is None:
                raise UnreadableImage("unlabelled", "no label for this file")
            return row
        assert self._masks is not None  # Safe because there is one or the other.
        path = self._masks / Path(key).name
        if not path.exists():
            raise UnreadableImage("unlabelled", "no mask of this name")
        mask, spacing = _volume(_read(path))
        wanted = self._options.label_column
        inside = mask == int(wanted) if wanted.isdecimal() else mask > 0
        volume_ml = float(inside.sum()) * float(np.prod(spacing)) / 1000.0
        above = self._options.positive_above
        return LabelRow(f"{volume_ml:.3f}" if above is None else str(int(volume_ml > above)))


def _read(path: Path) -> bytes:
    """Return a file's decompressed bytes, at most `MAX_BYTES` of them."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UnreadableImage("missing", "the file is not there any more") from None
    except OSError:
        raise UnreadableImage("unreadable", "the file cannot be read") from None
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        with gzip.open(io.BytesIO(data)) as file:
            head = file.read(HEADER_BYTES)
            expected = _declared_bytes(head)
            return head + file.read(expected - len(head) + 16_384)  # extensions may follow the header; not a byte more
    except (OSError, EOFError, zlib.error):
        raise UnreadableImage("damaged", "the file cannot be decompressed") from None


def _declared_bytes(head: bytes) -> int:
    try:
        header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(head[:348]))  # type: ignore[no-untyped-call]
        voxels = int(np.prod([int(side) for side in header.get_data_shape()], dtype=object))
        size = int(header["vox_offset"]) + voxels * int(header.get_data_dtype().itemsize)
    except Exception:  # nibabel raises its own, ValueError, OverflowError ... on damaged headers
        raise UnreadableImage("damaged", "no NIfTI header") from None
    if not 0 < voxels <= MAX_VOXELS or not 0 < size <= MAX_BYTES:
        raise UnreadableImage("too-large", f"it declares {voxels} voxels")
    return size


def _volume(data: bytes) -> tuple[FloatArray, tuple[float, float, float]]:
    """Return ``[z, y, x]`` along head, back and left, and its spacing."""
    if len(data) < HEADER_BYTES or len(data) < _declared_bytes(data[:HEADER_BYTES]):
        raise UnreadableImage("damaged", "shorter than its header says")
    try:
        image: Any = nibabel.Nifti1Image.from_bytes(data)
        space: Any = nibabel.orientations
        # NIfTI's axes point right, front and up; DICOM's left, back and up.
        dicom_axes = space.axcodes2ornt(("L", "P", "S"))
        turned = image.as_reoriented(space.ornt_transform(space.io_orientation(image.affine), dicom_axes))
        values = np.asarray(turned.get_fdata(dtype=np.float32))
        spacing = tuple(float(side) for side in turned.header.get_zooms()[:3])
    except Exception:  # see above
        raise UnreadableImage("damaged", "the file cannot be decoded") from None
    if values.ndim != 3 or min(values.shape) < 1:
        raise UnreadableImage("unsupported", "not one volume of three dimensions")
    if not np.isfinite(values).all() or not all(0 < side < np.inf for side in spacing):
        raise UnreadableImage("not-finite", "voxels or spacing that are not numbers")
    return np.ascontiguousarray(values.transpose(2, 1, 0)), (spacing[2], spacing[1], spacing[0])
