"""A folder of PNG, JPEG, BMP or TIFF files and a CSV of labels; the CSV should name each file's patient."""

import hashlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

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
from salus.client.data.sources.labels import read_labels
from salus.common.errors import UnreadableImage

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")  # what the bytes must be, whatever the name says


class ImageFolder:
    """One sample per image file. Where the label file names no patient, every different picture counts as one."""

    def __init__(self, root: Path, options: SourceOptions) -> None:
        self._root = root
        self._labels = read_labels(root, options)
        self._labels.check_patients()

    def scan(self) -> Iterator[ImageRecord | Quarantined]:
        for path in sorted(self._root.rglob("*")):
            if path.suffix.lower() not in SUFFIXES or not path.is_file() or path.is_symlink():
                continue
            key = path.relative_to(self._root).as_posix()
            row = self._labels.find(file=key) or self._labels.find(file=path.name)
            if row is None:
                yield Quarantined(key, "unlabelled", "no label for this file")
                continue
            try:
                sample = self.load(key)
            except UnreadableImage as problem:
                yield Quarantined(key, problem.reason, problem.detail)
                continue
            info: dict[str, str | float | int | list[float]] = {
                "channels": sample.values.shape[0],
                "rows": sample.values.shape[1],
                "columns": sample.values.shape[2],
                "intensity_range": [float(sample.values.min()), float(sample.values.max())],
            }
            patient = row.patient
            if not patient:
                patient, info[PATIENT_BY] = picture_key(sample.pixel_sha256), "picture"
            yield ImageRecord(
                patient, patient, key, row.label, row.split, sample.sha256, sample.pixel_sha256, info=info
            )

    def load(self, key: str) -> Sample:
        """Return ``[1, rows, columns]`` for grey and ``[3, rows, columns]`` for colour, turned as the file says."""
        try:
            data = (self._root / key).read_bytes()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                    if getattr(image, "n_frames", 1) != 1:
                        raise UnreadableImage("several-pictures", "the file holds several pictures")
                    values = _unit_range(ImageOps.exif_transpose(image))
        except UnreadableImage:
            raise
        except FileNotFoundError:
            raise UnreadableImage("missing", "the file is not there any more") from None
        except Exception:  # Pillow's plug-ins raise TypeError, SyntaxError, struct.error ... on damaged files
            raise UnreadableImage("damaged", "the image cannot be decoded") from None
        return Sample(values, sha256=hashlib.sha256(data).hexdigest(), pixel_sha256=array_digest(values))

    def stamp(self, key: str) -> Stamp | None:
        return stamp_of([self._root / key])


def _unit_range(image: Image.Image) -> FloatArray:
    """Return ``[channels, rows, columns]`` from 0 to 1 by the mode's own range; transparency is dropped."""
    if image.mode.startswith("I;16"):
        return np.asarray(image.convert("I"), dtype=np.float32)[None] / np.float32(65535)
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"), dtype=np.float32)[None] / np.float32(255)
    if image.mode in ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"):
        colour = np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)
        return np.ascontiguousarray(np.moveaxis(colour, -1, 0))
    raise UnreadableImage("unsupported", "pictures of this mode have no range of their own")
