"""A folder of NIfTI volumes; each counts as its own patient unless the label file says otherwise; labels from a CSV or masks.

With masks the label is the mask's volume in millilitres: of all its voxels above zero, or with `label_column` a number, of
the voxels of that class. `positive_above` turns it into ``1`` or ``0``.
"""

import gzip
import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import nibabel
import numpy as np

from salus.client.data.dicom.picture import Window, show
from salus.client.data.records import (
    PATIENT_BY,
    FloatArray,
    ImageRecord,
    Quarantined,
    Sample,
    array_digest,
    picture_key,
)
from salus.client.data.sources.base import Files, SourceOptions
from salus.client.data.sources.labels import LabelRow, read_labels
from salus.common.errors import DataError, UnreadableImage

SUFFIXES = (".nii", ".nii.gz")
MAX_VOXELS = 2**28
MAX_BYTES = 2 * 2**30  # of a volume
MAX_OFFSET = 2**20  # of the voxels in a file; extensions of the header are far smaller
HEADER_BYTES = 352
MAX_EXPANSION = 200  # of a compressed image; scans compress about 3 to 1, a brain in an empty frame 30 to 1


class NiftiFolder:
    """Every ``.nii`` and ``.nii.gz`` below `root`, brought to the axes of DICOM volumes: z up, y back, x left."""

    @staticmethod
    def prepare() -> None:
        """Read one small volume, so that everything nibabel needs is loaded."""
        image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))  # type: ignore[no-untyped-call]
        _volume(_expanded(gzip.compress(image.to_bytes()), MAX_BYTES))

    def __init__(self, files: Files, options: SourceOptions) -> None:
        self._files, self._options = files, options
        self._masks: set[str] = set()
        if options.masks:
            try:
                self._masks = set(files.names(options.masks))
            except UnreadableImage:
                raise DataError(
                    "Expected the folder of masks in the data folder, found no folder of this name.",
                    remedy="Check --masks.",
                ) from None
        images = [PurePosixPath(name) for name in files.names() if self.wants(name)]
        self._names = Counter(path.name for path in images)
        self._below = Counter(path.parts[1:] for path in images)  # places without the first folder, such as ``images``
        self._labels = None if options.masks else read_labels(files, options)
        if self._labels is not None:
            self._labels.check_patients()

    def wants(self, name: str) -> bool:
        """Return whether a file's name is that of a volume and it is not one of the masks."""
        return name.endswith(SUFFIXES) and not PurePosixPath(name).name.startswith(".") and name not in self._masks

    def group(self, name: str) -> str:
        """Return nothing: each file is a volume."""
        return ""

    def examine(self, names: Sequence[str]) -> Iterator[ImageRecord | Quarantined]:
        """Yield the sample of each file."""
        for key in names:
            sample = self.load(key)
            row = self._label(key, sample)
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

    def load(self, key: str) -> Sample:
        """Return ``[1, z, y, x]``, stretched from its smallest to its largest value."""
        data = self._read(key)
        values, spacing = _volume(data)
        shown = show(values, Window(), inverted=False)
        digest = hashlib.sha256(data).hexdigest()
        return Sample(shown[None], spacing, sha256=digest, intensities=values[None], pixel_sha256=array_digest(values))

    def _read(self, name: str) -> bytes:
        """Return a file's decompressed bytes, and no more of them than its header declares."""
        head = bytes(self._files.read(name, 0, HEADER_BYTES))
        if head[:2] == b"\x1f\x8b":
            data = bytes(self._files.read(name))
            # Masks may be nearly empty, and are counted here in the child; an image is passed on to the site's process.
            return _expanded(data, MAX_BYTES if name in self._masks else MAX_EXPANSION * len(data))
        return bytes(self._files.read(name, 0, _declared_bytes(head)))  # a sparse file may have gigabytes behind it

    def _label(self, key: str, sample: Sample) -> LabelRow:
        if self._labels is not None:
            row = self._labels.find(file=key)
            if row is None and self._names[PurePosixPath(key).name] == 1:
                row = self._labels.find(file=PurePosixPath(key).name)
            if row is None:
                raise UnreadableImage("unlabelled", "no label for this file")
            return row
        mask, spacing = _volume(self._read(self._mask_of(key)))
        if mask.shape != sample.measured.shape[1:] or not np.allclose(spacing, sample.spacing_mm, rtol=1e-3):
            raise UnreadableImage("mask-mismatch", "the mask's size or spacing differs from its image's")
        wanted = self._options.label_column
        inside = mask == int(wanted) if wanted.isdecimal() else mask > 0
        volume_ml = float(inside.sum()) * float(np.prod(spacing)) / 1000.0
        above = self._options.positive_above
        return LabelRow(f"{volume_ml:.3f}" if above is None else str(int(volume_ml > above)))

    def _mask_of(self, key: str) -> str:
        """Return an image's mask: at the same place below the folder of masks, or by its name if only one image has it."""
        place = PurePosixPath(key)
        places = [key]
        if self._below[place.parts[1:]] == 1 and len(place.parts) > 1:
            places.append("/".join(place.parts[1:]))
        if self._names[place.name] == 1:
            places.append(place.name)
        named = (f"{self._options.masks}/{place}" for place in places)
        found = next((name for name in named if name in self._masks), None)
        if found is None:
            raise UnreadableImage("unlabelled", "no mask of this name, or several images that match it")
        return found


def _expanded(data: bytes, most: int) -> bytes:
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


def _volume(data: bytes) -> tuple[FloatArray, tuple[float, float, float]]:
    """Return ``[z, y, x]`` along head, back and left, and its spacing."""
    if len(data) < HEADER_BYTES or len(data) < _declared_bytes(data[:HEADER_BYTES]):
        raise UnreadableImage("damaged", "shorter than its header declares")
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
        raise UnreadableImage("unsupported", "not a single three-dimensional volume")
    if not np.isfinite(values).all() or not all(0 < side < np.inf for side in spacing):
        raise UnreadableImage("not-finite", "voxels or spacing that are not finite")
    return np.ascontiguousarray(values.transpose(2, 1, 0)), (spacing[2], spacing[1], spacing[0])
