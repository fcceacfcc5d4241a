"""Prepared tensors on disk, mapped into memory: decoded and resampled once per content and transform, with a size limit.

    <folder>/<transform>/tensors.bin    equal slots, one tensor each
                        /index.bin      one record per slot, written after its tensor: key, stamp, checksum

After a crash a record may be missing or truncated, and a tensor may not match its checksum; both are rebuilt. A tensor
holds pixels and no name. It is used only while the source's file is unchanged (size, times, inode), so an image that an
operator deletes or replaces is not trained on.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import struct
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from salus.client.data.sources.base import Stamp
from salus.common.canonical import canonical_json
from salus.common.job import Job

VERSION = 1  # raise it when preparing the same image gives a different tensor
RECORD = struct.Struct("<32sqqI")
GROW_SLOTS = 256


class TensorCache:
    """All tensors of one transform.

    Args:
        folder: of the site's whole cache.
        transform: `transform_hash` of the job.
        max_bytes: of the whole cache; older transforms are removed first, then nothing more is kept.

    Raises:
        OSError: the folder cannot be written, or another cache of this transform is open.
    """

    def __init__(self, folder: Path, transform: str, max_bytes: int) -> None:
        self._folder, self._place, self._max_bytes = folder, folder / transform, max_bytes
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(self._place)
        lock = os.open(self._place / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        self._release = weakref.finalize(self, os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two writers would overwrite each other's slots
        self._slots: dict[bytes, tuple[int, Stamp, int]] = {}
        self._checked: set[int] = set()
        self._count = 0
        self._shape: tuple[int, ...] = ()
        self._map: npt.NDArray[np.float32] | None = None
        self._full = False
        self._left = 0
        self._read_index()

    def get(self, content: str, stamp: Stamp | None, shape: Sequence[int]) -> torch.Tensor | None:
        """Return the tensor of an image's content hash, or None if it is not here, its file changed, or it is damaged."""
        known = self._slots.get(_key(content, shape))
        if known is None or stamp is None or known[1] != stamp:
            return None
        slot, _, checksum = known
        values = self._mapped(tuple(shape))
        if values is None or slot >= len(values):
            return None
        if slot not in self._checked:
            if zlib.crc32(values[slot].tobytes()) != checksum:
                return None
            self._checked.add(slot)
        return torch.from_numpy(np.array(values[slot]))

    def put(self, content: str, stamp: Stamp | None, tensor: torch.Tensor) -> None:
        """Store a tensor if there is room; on a full disk nothing more is stored, and no error is raised."""
        if stamp is None or self._full:
            return
        data = tensor.contiguous().numpy().astype(np.float32).tobytes()
        shape = tuple(tensor.shape)
        if self._shape and shape != self._shape:
            return
        try:
            if not self._room(len(data)):
                self._full = True
                return
            self._write(_key(content, shape), stamp, shape, data)
        except OSError:
            self._full = True

    def close(self) -> None:
        """Release this transform for others; tensors that were read stay valid."""
        self._release()

    def _write(self, key: bytes, stamp: Stamp, shape: tuple[int, ...], data: bytes) -> None:
        slot = self._count
        with (self._place / "tensors.bin").open("r+b" if slot else "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.seek(slot * len(data))
            file.write(data)
        checksum = zlib.crc32(data)
        with (self._place / "index.bin").open("ab") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(RECORD.pack(key, *stamp, checksum))
        self._slots[key] = (slot, stamp, checksum)
        self._shape, self._count = shape, slot + 1

    def _read_index(self) -> None:
        path = self._place / "index.bin"
        if not path.exists() or not (self._place / "tensors.bin").exists():
            path.unlink(missing_ok=True)  # leftovers of a cleared cache
            return
        data = path.read_bytes()
        whole = len(data) - len(data) % RECORD.size
        if whole != len(data):
            os.truncate(path, whole)  # a crash truncated the last record
        for slot, (key, size, time_ns, checksum) in enumerate(RECORD.iter_unpack(data[:whole])):
            self._slots[key] = (slot, (size, time_ns), checksum)
        self._count = whole // RECORD.size

    def _mapped(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32] | None:
        size = int(np.prod(shape))
        if self._map is None or len(self._map) < self._count:
            try:
                slots = (self._place / "tensors.bin").stat().st_size // (4 * size)
                if not slots:
                    return None
                self._map = np.memmap(self._place / "tensors.bin", np.float32, "r", shape=(slots, *shape))
                self._shape = shape
            except (OSError, ValueError):
                return None
        return self._map if self._map.shape[1:] == shape else None

    def _room(self, more: int) -> bool:
        if self._count % GROW_SLOTS and self._left >= more:
            self._left -= more
            return True
        others = [path for path in self._folder.iterdir() if path.is_dir() and path != self._place]
        for oldest in sorted(others, key=lambda path: path.stat().st_mtime):
            if size_of(self._folder) + GROW_SLOTS * more <= self._max_bytes:
                break
            shutil.rmtree(oldest, ignore_errors=True)
        self._left = self._max_bytes - size_of(self._folder)
        return self._left >= more


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def transform_hash(job: Job, options: str) -> str | None:
    """Return a hash of all processing between a stored image and its tensor, or None if that depends on other images.

    Args:
        options: of the source, as the catalogue keeps them.

    ComBat takes a site's other images into account, so its tensors are not cached; a table's rows need no cache.
    """
    if not job.task.shape or (job.harmonise is not None and job.harmonise.kind == "combat"):
        return None
    parts = {
        "version": VERSION,
        "task": job.task.model_dump(mode="json", exclude={"model", "dataset", "classes"}),
        "harmonise": None if job.harmonise is None else job.harmonise.model_dump(mode="json"),
        "source": options,
    }
    return hashlib.sha256(canonical_json(parts)).hexdigest()[:32]


def _key(content: str, shape: Sequence[int]) -> bytes:
    return hashlib.sha256(f"{content}/{'x'.join(map(str, shape))}".encode()).digest()
