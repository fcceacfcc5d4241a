"""A folder of PNG, JPEG, BMP or TIFF files and a CSV of labels; the CSV should name each file's patient."""

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from salus.client.data.records import ImageRecord, Quarantined, Sample
from salus.client.data.sources.base import SourceOptions
from salus.client.data.sources.labels import read_labels
from salus.common.errors import UnreadableImage

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


class ImageFolder:
    """One sample per image file. Without a PatientID column each file counts as its own patient."""

    def __init__(self, root: Path, options: SourceOptions) -> None:
        self._root = root
        self._labels = read_labels(root, options)

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
                values = self.load(key).values
            except UnreadableImage as problem:
                yield Quarantined(key, problem.reason, problem.detail)
                continue
            info: dict[str, str | float | int | list[float]] = {"rows": values.shape[1], "columns": values.shape[2]}
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            patient = row.patient or key
            yield ImageRecord(patient, patient, key, row.label, row.split, digest, info=info)

    def load(self, key: str) -> Sample:
        """Return ``[1, rows, columns]`` for grey and ``[3, rows, columns]`` for colour."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(self._root / key) as image:
                    grey = image.mode in ("1", "L", "I", "I;16", "F")
                    deep = image.mode in ("I", "I;16")
                    pixels = np.asarray(image if grey else image.convert("RGB"), dtype=np.float32)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise UnreadableImage("damaged", "the image cannot be decoded") from None
        scaled = pixels / np.float32(65535 if deep else 255)
        return Sample(scaled[None] if grey else np.ascontiguousarray(np.moveaxis(scaled, -1, 0)))
