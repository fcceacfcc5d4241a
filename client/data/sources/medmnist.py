"""An ``.npz`` in MedMNIST form: ``train_images``, ``train_labels`` and so on; every distinct image counts as its own patient."""

import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from salus.client.data.records import PATIENT_BY, ImageRecord, Quarantined, Sample, picture_key
from salus.client.data.sources.base import Files, stream
from salus.client.data.sources.settings import ArraySettings
from salus.common.errors import DataError, UnreadableImage

MAX_BYTES = 16 * 2**30  # a whole MedMNIST+ file at 224 pixels has 4 GB
SPLITS = ("train", "val", "test")


class MedMnist:
    """One sample per row of the arrays; nothing is unpickled."""

    Settings = ArraySettings
    unit_range = True  # values from 0 to 1, whatever is asked for, see `grey_values`

    @staticmethod
    def prepare() -> None:
        """Read one archive, compressed as usual, so that everything needed is loaded."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, x=np.zeros(1, np.uint8))
        buffer.seek(0)
        with np.load(buffer, allow_pickle=False) as arrays:
            arrays["x"].sum()

    def __init__(self, files: Files, options: ArraySettings) -> None:
        names = list(files.names())
        found = [name for name in names if name.endswith(".npz") and "/" not in name]
        self._name = (found or names or [""])[0]
        try:
            with stream(files, self._name) as file, zipfile.ZipFile(file) as archive:
                if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                    raise ValueError
            with stream(files, self._name) as file, np.load(file, allow_pickle=False) as arrays:
                self._images = {s: arrays[f"{s}_images"] for s in SPLITS if f"{s}_images" in arrays}
                self._labels = {s: arrays[f"{s}_labels"] for s in self._images}
            if "train" not in self._images:
                raise ValueError
        except MemoryError:
            raise DataError(
                f"The arrays of {self._name!r} need more memory than allowed.",
                remedy="Raise decode_memory_mb in site.toml.",
            ) from None
        except Exception:  # zipfile, zlib and numpy raise many kinds of exceptions on damaged archives
            raise DataError(
                f"Expected an npz in MedMNIST form, but {self._name!r} cannot be read as one.",
                remedy="It needs train_images and train_labels, and the same for val and test.",
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

    def wants(self, name: str) -> bool:
        """Return whether this is the archive."""
        return name == self._name

    def group(self, name: str) -> str:
        """Return nothing: there is one file."""
        return ""

    def examine(self, names: Sequence[str]) -> Iterator[ImageRecord | Quarantined]:
        """Yield every row of every split."""
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


def _digest(image: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()
