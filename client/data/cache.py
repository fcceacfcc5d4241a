"""Prepared images on disk, mapped into memory: decoded and resampled once per content and transforms, with a size limit.

    <folder>/<transforms>/images.bin    one example behind the other, each as safetensors
                         /index.bin     one record per example, written after it: key, stamp, checksum, place, length

After a crash a record may be missing or truncated, and an example may not match its checksum; both are rebuilt. An example
holds pixels and annotations and no name. It is used only while the source's file is unchanged (size, times, inode), so an
image that an operator deletes or replaces is not trained on.
"""

import contextlib
import fcntl
import mmap
import os
import shutil
import struct
import weakref
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from salus.client.data.sources.base import Stamp
from salus.common.examples import Array, Example

RECORD = struct.Struct("<32sqqIQQ")
SHARE_OF_ROOM = 16  # room is made for this part of the whole cache at once, so that sizes are rarely counted
SPATIAL, OTHER, AFFINE = "s:", "f:", "affine"  # before a field's name; names of fields have no colon


class ExampleCache:
    """All prepared images of one chain of transforms.

    Args:
        folder: of the site's whole cache.
        transforms: `loading.transform_hash` of the task.
        max_bytes: of the whole cache; older chains are removed first, then nothing more is kept.

    Raises:
        OSError: the folder cannot be written, or another cache of these transforms is open.
    """

    def __init__(self, folder: Path, transforms: str, max_bytes: int) -> None:
        self._folder, self._place, self._max_bytes = folder, folder / transforms, max_bytes
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(self._place)
        lock = os.open(self._place / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        self._release = weakref.finalize(self, os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two writers would overwrite each other's examples
        self._known: dict[bytes, tuple[Stamp, int, int, int]] = {}
        self._checked: set[bytes] = set()
        self._end = 0
        self._map: mmap.mmap | None = None
        self._full = False
        self._left = 0
        self._read_index()

    def get(self, key: bytes, stamp: Stamp | None) -> Example | None:
        """Return the example of a key, without facts; None if it is not here, its file changed, or it is damaged."""
        known = self._known.get(key)
        if known is None or stamp is None or known[0] != stamp:
            return None
        _, checksum, place, length = known
        data = self._read(place, length)
        if data is None or (key not in self._checked and zlib.crc32(data) != checksum):
            return None
        self._checked.add(key)
        return decoded(data)

    def put(self, key: bytes, stamp: Stamp | None, example: Example) -> None:
        """Store an example if there is room; on a full disk nothing more is stored, and no error is raised."""
        if stamp is None or self._full:
            return
        data = encoded(example)
        try:
            if not self._room(len(data) + RECORD.size):
                self._full = True
                return
            self._write(key, stamp, data)
        except OSError:
            self._full = True

    def close(self) -> None:
        """Release these transforms for others; examples that were read stay valid."""
        self._release()

    def _write(self, key: bytes, stamp: Stamp, data: bytes) -> None:
        place = self._end
        with (self._place / "images.bin").open("r+b" if place else "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.seek(place)
            file.write(data)
        checksum = zlib.crc32(data)
        with (self._place / "index.bin").open("ab") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(RECORD.pack(key, *stamp, checksum, place, len(data)))
        self._known[key] = (stamp, checksum, place, len(data))
        self._checked.add(key)
        self._end = place + len(data)

    def _read_index(self) -> None:
        path = self._place / "index.bin"
        if not path.exists() or not (self._place / "images.bin").exists():
            path.unlink(missing_ok=True)  # leftovers of a cleared cache
            return
        data = path.read_bytes()
        whole = len(data) - len(data) % RECORD.size
        if whole != len(data):
            os.truncate(path, whole)  # a crash truncated the last record
        for key, size, time_ns, checksum, place, length in RECORD.iter_unpack(data[:whole]):
            self._known[key] = ((size, time_ns), checksum, place, length)
            self._end = max(self._end, place + length)

    def _read(self, place: int, length: int) -> bytes | None:
        if self._map is None or len(self._map) < place + length:
            try:
                with (self._place / "images.bin").open("rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError):
                return None
        return self._map[place : place + length] if len(self._map) >= place + length else None

    def _room(self, more: int) -> bool:
        if self._left >= more:
            self._left -= more
            return True
        wanted = max(more, self._max_bytes // SHARE_OF_ROOM)
        others = [path for path in self._folder.iterdir() if path.is_dir() and path != self._place]
        used = size_of(self._folder)
        for oldest in sorted(others, key=lambda path: path.stat().st_mtime):
            if used + wanted <= self._max_bytes:
                break
            shutil.rmtree(oldest, ignore_errors=True)
            used = size_of(self._folder)
        self._left = min(self._max_bytes - used, wanted) - more
        return self._left >= 0


def encoded(example: Example) -> bytes:
    """Return an example's arrays and affine as safetensors."""
    arrays: dict[str, Array] = {
        (SPATIAL if name in example.spatial else OTHER) + name: np.ascontiguousarray(array)
        for name, array in example.fields.items()
    }
    if example.affine is not None:
        arrays[AFFINE] = np.ascontiguousarray(example.affine, dtype=np.float64)
    return save(arrays)


def decoded(data: bytes) -> Example:
    """Return the example that `encoded` wrote, without its facts."""
    arrays = load(data)
    affine = arrays.pop(AFFINE, None)
    spatial = frozenset(name.removeprefix(SPATIAL) for name in arrays if name.startswith(SPATIAL))
    return Example({name.partition(":")[2]: array for name, array in arrays.items()}, spatial, affine)


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total
