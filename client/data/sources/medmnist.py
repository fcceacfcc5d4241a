"""An ``.npz`` in MedMNIST form: ``train_images``, ``train_labels`` and so on; every different image is a patient of its own."""

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from salus.client.data.records import PATIENT_BY, ImageRecord, Quarantined, Sample, picture_key
from salus.client.data.sources.base import SourceOptions, Stamp
from salus.common.errors import DataError, UnreadableImage

MAX_BYTES = 16 * 2**30  # a whole MedMNIST+ file at 224 pixels has 4 GB
SPLITS = ("train", "val", "test")


class MedMnist:
    """One sample per row of the arrays; nothing is unpickled."""

    def __init__(self, root: Path, options: SourceOptions) -> None:
        path = root if root.is_file() else next(iter(sorted(root.glob("*.npz"))), root)
        try:
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                    raise ValueError
            with np.load(path, allow_pickle=False) as arrays:
                self._images = {s: arrays[f"{s}_images"] for s in SPLITS if f"{s}_images" in arrays}
                self._labels = {s: arrays[f"{s}_labels"] for s in self._images}
            if "train" not in self._images:
                raise ValueError
        except Exception:  # zipfile, zlib and numpy raise a dozen kinds on damaged archives
            raise DataError(
                f"Expected an npz in MedMNIST form, but {path.name!r} cannot be read as one.",
                remedy="It needs train_images and train_labels, and likewise val and test.",
            ) from None
        for split, images in self._images.items():
            labels = self._labels[split]
            whole = (
                labels.dtype.kind in "iu" and labels.shape in ((len(images),), (len(images), 1))
                if images.ndim
                else False
            )
            if images.dtype != np.uint8 or images.ndim not in (3, 4, 5) or not images.size or not whole:
                raise DataError(
                    f"Expected 8-bit images and one whole-number label for each in {split}.",
                    remedy="Convert the arrays.",
                )

    def scan(self) -> Iterator[ImageRecord | Quarantined]:
        for split, images in self._images.items():
            for row, (image, label) in enumerate(zip(images, self._labels[split].reshape(-1), strict=True)):
                key = f"{split}/{row}"
                coloured = image.shape[-1] == 3
                sides = image.shape[:-1] if coloured else image.shape
                info: dict[str, str | float | int | list[float]] = {
                    PATIENT_BY: "picture",
                    "channels": 3 if coloured else 1,
                    **({"slices": sides[0]} if len(sides) == 3 else {}),
                    "rows": sides[-2],
                    "columns": sides[-1],
                    "intensity_range": [float(image.min()) / 255, float(image.max()) / 255],
                }
                digest = _digest(image)
                patient = picture_key(digest)
                yield ImageRecord(patient, key, key, str(int(label)), split, digest, digest, info=info)

    def load(self, key: str) -> Sample:
        """Return ``[channels, *spatial]``; the last axis is colour if it has three entries."""
        split, _, row = key.partition("/")
        try:
            image: npt.NDArray[np.uint8] = self._images[split][int(row)]
        except (KeyError, ValueError, IndexError):
            raise UnreadableImage("missing", "the array no longer has this row") from None
        values = image.astype(np.float32) / np.float32(255)
        channels_first = np.ascontiguousarray(np.moveaxis(values, -1, 0)) if values.shape[-1] == 3 else values[None]
        return Sample(channels_first, sha256=_digest(image), pixel_sha256=_digest(image))

    def stamp(self, key: str) -> Stamp | None:
        return None  # the arrays are in memory already


def _digest(image: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()
