"""A folder of PNG, JPEG, BMP or TIFF files and a CSV of labels; the CSV should name each file's patient."""

import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

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
from salus.client.data.sources.base import MAX_PICTURE_VALUES, Files, SourceOptions
from salus.client.data.sources.labels import read_labels
from salus.common.errors import UnreadableImage

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")  # the content decides, whatever the name says


class ImageFolder:
    """One sample per image file. If the label file names no patient, every distinct image counts as one."""

    @staticmethod
    def prepare() -> None:
        """Load Pillow's decoders, and decode one picture with each."""
        Image.init()
        for kind in FORMATS:
            buffer = io.BytesIO()
            Image.new("RGB", (2, 2)).save(buffer, kind)
            _decoded(buffer.getvalue())

    def __init__(self, files: Files, options: SourceOptions) -> None:
        self._files = files
        self._labels = read_labels(files, options)
        self._labels.check_patients()

    def wants(self, name: str) -> bool:
        """Return whether a file's name is that of an image."""
        return PurePosixPath(name).suffix.lower() in SUFFIXES

    def group(self, name: str) -> str:
        """Return nothing: each file is a sample."""
        return ""

    def examine(self, names: Sequence[str]) -> Iterator[ImageRecord | Quarantined]:
        """Yield the sample of each file."""
        for key in names:
            row = self._labels.find(file=key) or self._labels.find(file=PurePosixPath(key).name)
            if row is None:
                raise UnreadableImage("unlabelled", "no label for this file")
            sample = self.load(key)
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
        """Return ``[1, rows, columns]`` for grey and ``[3, rows, columns]`` for colour, rotated as the file says."""
        data = bytes(self._files.read(key))
        values = _decoded(data)
        return Sample(values, sha256=hashlib.sha256(data).hexdigest(), pixel_sha256=array_digest(values))


def _decoded(data: bytes) -> FloatArray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if getattr(image, "n_frames", 1) != 1:
                    raise UnreadableImage("several-pictures", "the file holds several images")
                colours = 1 if image.mode in ("1", "L", "LA") or image.mode.startswith("I;16") else 3
                if image.width * image.height * colours > MAX_PICTURE_VALUES:  # as the header declares, before decoding
                    raise UnreadableImage("too-large", f"the image declares {image.width} x {image.height} pixels")
                return _unit_range(ImageOps.exif_transpose(image))
    except UnreadableImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limit
        raise UnreadableImage("too-large", "the image declares too many pixels") from None
    except MemoryError:
        raise UnreadableImage("too-large", "the image needs more memory than allowed") from None
    except Exception:  # Pillow's plug-ins raise TypeError, SyntaxError, struct.error ... on damaged files
        raise UnreadableImage("damaged", "the image cannot be decoded") from None


def _unit_range(image: Image.Image) -> FloatArray:
    """Return ``[channels, rows, columns]`` from 0 to 1 by the mode's own range; transparency is dropped."""
    if image.mode.startswith("I;16"):
        return np.asarray(image.convert("I"), dtype=np.float32)[None] / np.float32(65535)
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"), dtype=np.float32)[None] / np.float32(255)
    if image.mode in ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"):
        colour = np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)
        return np.ascontiguousarray(np.moveaxis(colour, -1, 0))
    raise UnreadableImage("unsupported", "this pixel mode has no fixed range of values")
