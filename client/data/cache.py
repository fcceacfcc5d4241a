"""Prepared tensors on disk, mapped into memory: decoded and resampled once per content and transform, with a size limit.

    <folder>/<transform>/tensors.bin    equal slots, the fields of one item each, behind each other
                        /index.bin      one record per slot, written after its fields: key, stamp, checksum

After a crash a record may be missing or truncated, and a slot may not match its checksum; both are rebuilt. A slot
holds pixels and no name. It is used only while the source's file is unchanged (size, times, inode), so an image that an
operator deletes or replaces is not trained on.
"""

import contextlib
import fcntl
import hashlib
import math
import os
import shutil
import struct
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from salus.client.data.sources.base import Stamp
from salus.common.batch import DTYPES, Spec
from salus.common.canonical import canonical_json
from salus.common.job import Job

VERSION = 2  # raise it when preparing the same image gives a different tensor
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
        self._slot_bytes = 0
        self._map: npt.NDArray[np.uint8] | None = None
        self._full = False
        self._left = 0
        self._read_index()

    def get(self, content: str, stamp: Stamp | None, spec: Spec) -> dict[str, torch.Tensor] | None:
        """Return the fields of an image's content hash, or None if they are not here, the file changed, or they are damaged."""
        known = self._slots.get(_key(content, spec))
        if known is None or stamp is None or known[1] != stamp:
            return None
        slot, _, checksum = known
        slots = self._mapped(_size(spec))
        if slots is None or slot >= len(slots):
            return None
        data = slots[slot].tobytes()
        if slot not in self._checked:
            if zlib.crc32(data) != checksum:
                return None
            self._checked.add(slot)
        return _fields(bytearray(data), spec)

    def put(self, content: str, stamp: Stamp | None, fields: Mapping[str, torch.Tensor], spec: Spec) -> None:
        """Store an item's fields if there is room; on a full disk nothing more is stored, and no error is raised."""
        if stamp is None or self._full:
            return
        data = b"".join(fields[name].contiguous().numpy().tobytes() for name in sorted(spec))
        if len(data) != _size(spec) or self._slot_bytes not in (0, len(data)):
            return
        try:
            if not self._room(len(data)):
                self._full = True
                return
            self._write(_key(content, spec), stamp, data)
        except OSError:
            self._full = True

    def close(self) -> None:
        """Release this transform for others; tensors that were read stay valid."""
        self._release()

    def _write(self, key: bytes, stamp: Stamp, data: bytes) -> None:
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
        self._slot_bytes, self._count = len(data), slot + 1

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

    def _mapped(self, size: int) -> npt.NDArray[np.uint8] | None:
        if self._map is None or len(self._map) < self._count:
            try:
                slots = (self._place / "tensors.bin").stat().st_size // size
                if not slots:
                    return None
                self._map = np.memmap(self._place / "tensors.bin", np.uint8, "r", shape=(slots, size))
                self._slot_bytes = size
            except (OSError, ValueError):
                return None
        return self._map if self._map.shape[1] == size else None

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


def _key(content: str, spec: Spec) -> bytes:
    shapes = ";".join(f"{name}:{'x'.join(map(str, spec[name].shape))}:{spec[name].dtype}" for name in sorted(spec))
    return hashlib.sha256(f"{content}/{shapes}".encode()).digest()


def _size(spec: Spec) -> int:
    """Return the bytes of one item."""
    return sum(math.prod(field.shape) * DTYPES[field.dtype].itemsize for field in spec.values())


def _fields(data: bytearray, spec: Spec) -> dict[str, torch.Tensor]:
    """Return the tensors that lie behind each other in `data`, in the order of their names."""
    fields: dict[str, torch.Tensor] = {}
    start = 0
    for name in sorted(spec):
        count, kind = math.prod(spec[name].shape), DTYPES[spec[name].dtype]
        fields[name] = torch.frombuffer(data, dtype=kind, count=count, offset=start).reshape(spec[name].shape)
        start += count * kind.itemsize
    return fields
