"""A folder of NIfTI volumes; each is a patient of its own unless the label file says otherwise; labels from a CSV or from masks.

With masks the label is the mask's volume in millilitres: of all its voxels above zero, or with `label_column` a number, of
the voxels of that class. `positive_above` turns it into ``1`` or ``0``.
"""

import gzip
import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from salus.client.data.dicom import Window, show
from salus.client.data.records import (
    PATIENT_BY,
    FloatArray,
    ImageRecord,
    Quarantined,
    Sample,
    array_digest,
    picture_key,
)
from salus.client.data.sources.base import SourceOptions, Stamp, stamp_of
from salus.client.data.sources.labels import LabelRow, read_labels
from salus.common.errors import DataError, UnreadableImage

SUFFIXES = (".nii", ".nii.gz")
MAX_VOXELS = 2**28
MAX_BYTES = 2 * 2**30  # of a volume
MAX_OFFSET = 2**20  # of the voxels in a file; extensions of the header are far smaller
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
        images = [path.relative_to(root) for path in root.rglob("*") if self._is_image(path)]
        self._names = Counter(path.name for path in images)
        self._below = Counter(path.parts[1:] for path in images)  # places without the first folder, such as ``images``
        self._labels = None if self._masks is not None else read_labels(root, options)
        if self._labels is not None:
            self._labels.check_patients()

    def scan(self) -> Iterator[ImageRecord | Quarantined]:
        for path in sorted(self._root.rglob("*")):
            if not self._is_image(path):
                continue
            key = path.relative_to(self._root).as_posix()
            try:
                sample = self.load(key)
                row = self._label(key, sample)
            except UnreadableImage as problem:
                yield Quarantined(key, problem.reason, problem.detail)
                continue
            shape = sample.values.shape
            info: dict[str, str | float | int | list[float]] = {
                "modality": "MR",
                "channels": shape[0],
                "slices": shape[1],
                "rows": shape[2],
                "columns": shape[3],
                "spacing_mm": list(sample.spacing_mm),
                "intensity_range": [float(sample.measured.min()), float(sample.measured.max())],
            }
            patient = row.patient
            if not patient:
                patient, info[PATIENT_BY] = picture_key(sample.pixel_sha256), "picture"
            yield ImageRecord(
                patient, patient, key, row.label, row.split, sample.sha256, sample.pixel_sha256, info=info
            )

    def _is_image(self, path: Path) -> bool:
        inside = self._masks is not None and self._masks in path.parents
        named = path.name.endswith(SUFFIXES) and not path.name.startswith(".")
        return named and not inside and not path.is_symlink() and path.is_file()

    def load(self, key: str) -> Sample:
        """Return ``[1, z, y, x]``, stretched from its smallest to its largest value."""
        data = _read(self._root / key)
        values, spacing = _volume(data)
        shown = show(values, Window(), inverted=False)
        digest = hashlib.sha256(data).hexdigest()
        return Sample(shown[None], spacing, sha256=digest, intensities=values[None], pixel_sha256=array_digest(values))

    def stamp(self, key: str) -> Stamp | None:
        return stamp_of([self._root / key])

    def _label(self, key: str, sample: Sample) -> LabelRow:
        if self._labels is not None:
            row = self._labels.find(file=key)
            if row is None and self._names[Path(key).name] == 1:
                row = self._labels.find(file=Path(key).name)
            if row is None:
                raise UnreadableImage("unlabelled", "no label for this file")
            return row
        assert self._masks is not None  # Safe because there is one or the other.
        mask, spacing = _volume(_read(self._mask_of(key, self._masks)))
        if mask.shape != sample.measured.shape[1:] or not np.allclose(spacing, sample.spacing_mm, rtol=1e-3):
            raise UnreadableImage("mask-mismatch", "the mask has another size or spacing than its image")
        wanted = self._options.label_column
        inside = mask == int(wanted) if wanted.isdecimal() else mask > 0
        volume_ml = float(inside.sum()) * float(np.prod(spacing)) / 1000.0
        above = self._options.positive_above
        return LabelRow(f"{volume_ml:.3f}" if above is None else str(int(volume_ml > above)))

    def _mask_of(self, key: str, masks: Path) -> Path:
        """Return an image's mask: at the same place below the folder of masks, or by its name where only one image has it."""
        place = Path(key)
        places = [masks / place]
        if self._below[place.parts[1:]] == 1 and len(place.parts) > 1:
            places.append(masks / Path(*place.parts[1:]))
        if self._names[place.name] == 1:
            places.append(masks / place.name)
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            raise UnreadableImage("unlabelled", "no mask of this name, or several images that it could be of")
        return found


def _read(path: Path) -> bytes:
    """Return a file's decompressed bytes, at most `MAX_BYTES` of them."""
    try:
        with path.open("rb") as plain:
            data = plain.read(HEADER_BYTES)
            if data[:2] != b"\x1f\x8b":  # of a sparse file of many gigabytes no more than it declares
                return data + plain.read(max(_declared_bytes(data) - len(data), 0))
            data += plain.read(MAX_BYTES)
    except FileNotFoundError:
        raise UnreadableImage("missing", "the file is not there any more") from None
    except OSError:
        raise UnreadableImage("unreadable", "the file cannot be read") from None
    try:
        with gzip.open(io.BytesIO(data)) as file:
            head = file.read(HEADER_BYTES)
            expected = _declared_bytes(head)
            return head + file.read(max(expected - len(head), 0))  # not a byte more
    except (OSError, EOFError, zlib.error):
        raise UnreadableImage("damaged", "the file cannot be decompressed") from None


def _declared_bytes(head: bytes) -> int:
    try:
        header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(head[:348]))  # type: ignore[no-untyped-call]
        voxels = int(np.prod([int(side) for side in header.get_data_shape()], dtype=object))
        offset = int(header["vox_offset"])
        size = offset + voxels * int(header.get_data_dtype().itemsize)
    except Exception:  # nibabel raises its own, ValueError, OverflowError ... on damaged headers
        raise UnreadableImage("damaged", "no NIfTI header") from None
    if not 0 < voxels <= MAX_VOXELS or not 0 < size <= MAX_BYTES or not 0 <= offset <= MAX_OFFSET:
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
