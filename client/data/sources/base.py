"""The interfaces of a source: `Reader` reads one kind of data, `Files` is what it reads, and `Source` is what callers see."""

import hashlib
import io
import json
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from salus.client.data.records import ImageRecord, Quarantined, Sample

LABELS = "labels.csv"
MAX_PICTURE_VALUES = 2**26  # of one two-dimensional image, all colours together: 8000 x 8000 in grey
READ_AHEAD = 2**20
NOT_A_FILE = "\0"  # begins what a key says beside the names of files, none of which can hold it


class Files(Protocol):
    """The files of a data set, by names relative to its root with ``/`` between folders; nothing else can be read.

    The label file and the folders of masks and annotations go by the names that the options give them, wherever they are.
    """

    def names(self, below: str = "") -> Iterator[str]:
        """Yield every regular file, sorted by folder and name; symbolic links are not followed.

        Args:
            below: the folder of masks or annotations, instead of the root.
        """

    def size(self, name: str) -> int:
        """Return a file's size in bytes; raises UnreadableImage as `read`."""

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes | bytearray:
        """Return a file's bytes.

        Args:
            length: at most this many; None for all of a file of at most `messages.MAX_FILE_BYTES`.

        Raises:
            UnreadableImage: ``missing``, ``unreadable`` or ``too-large``.
        """


class Reader(Protocol):
    """Reads one kind of data. At a site it runs in a sandboxed child process, and sees only its `Files`.

    It may raise `UnreadableImage` for files that cannot be used; any other error counts as ``damaged``. It cannot start threads,
    and it cannot import modules while it reads: `prepare` does that before.

    An attribute ``unit_range`` of its class says that images have values from 0 to 1 and no units of their own.
    An attribute ``Settings`` of its class, a strict model, has its options (see `settings`); without it there are none.
    """

    @staticmethod
    def prepare() -> None:
        """Import and load everything that a file may need; nothing can be loaded later."""

    def __init__(self, files: Files, options: Any) -> None:
        """Open the data; raises DataError for options or label files that cannot be used."""

    def wants(self, name: str) -> bool:
        """Return whether a file, by its name alone, may hold samples."""

    def group(self, name: str) -> str:
        """Return the group in which a file's samples are examined together with those of other files; empty for none."""

    def examine(self, names: Sequence[str]) -> Iterator[ImageRecord | Quarantined]:
        """Yield the samples of one file, or of all files of a group.

        The key of a sample that is kept in the cache must be its file's name, or a JSON list of the names of its files.
        """

    def load(self, key: str) -> Sample:
        """Return the sample of `key`; raises UnreadableImage if it has changed."""


@runtime_checkable
class Parted(Protocol):
    """What a `Reader` may also say: which files it does not examine by themselves because they are parts of samples."""

    def is_part(self, name: str) -> bool:
        """Return whether a file is a part of a sample, such as a mask, whether or not the sample can be used."""


@runtime_checkable
class Labelled(Protocol):
    """What a `Reader` with a label file may also say."""

    def unmatched(self) -> Iterator[Quarantined]:
        """Yield the rows that no image has had since the reader was opened; called when every file was examined.

        Raises:
            DataError: rows match what they cannot mean, see `Labels.check_matches`.
        """


def unmatched_of(reader: Reader) -> Iterator[Quarantined]:
    """Yield the rows of a reader's label file that no image has; nothing for a reader that does not say."""
    return reader.unmatched() if isinstance(reader, Labelled) else iter(())


def parts_of(reader: Reader, names: Sequence[str]) -> list[str]:
    """Return those of the files that are parts of a reader's samples; none for a reader that does not say."""
    return [name for name in names if reader.is_part(name)] if isinstance(reader, Parted) else []


Stamp = tuple[int, int]  # two halves of a hash


class Source(Protocol):
    """Finds samples and reads them again by key."""

    def scan(self) -> Iterator[ImageRecord | Quarantined]:
        """Yield every sample and every file that cannot be used; never raises for a bad file."""

    def everything(self) -> Iterator[ImageRecord | Quarantined]:
        """Yield what `scan` yields, and what was set aside, so that every file is named once."""

    def load(self, key: str) -> Sample:
        """Return the sample of `key`; raises UnreadableImage if it has changed."""

    def stored(self, name: str) -> bytes:
        """Return the stored bytes of one of the files; raises UnreadableImage as `Files.read`."""

    def stamp(self, key: str) -> Stamp | None:
        """Return a stamp that changes with the sample's files, without reading them; None if they are gone or need no cache."""


def stamp_of(facts: Iterable[tuple[str, os.stat_result]]) -> Stamp:
    """Return a stamp that changes when any of these files is replaced, changed or moved."""
    digest = hashlib.sha256()
    for name, found in facts:
        numbers = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        digest.update(repr((name, *numbers)).encode("utf-8", "surrogateescape"))
    first, second = struct.unpack("<qq", digest.digest()[:16])
    return first, second


def files_of(key: str) -> tuple[str, ...]:
    """Return the names of the files that a sample's key stands for, see `Reader.examine`."""
    try:
        names = json.loads(key) if key.startswith("[") else None
    except (ValueError, RecursionError):
        names = None  # a file's name may begin like a list
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(name for name in names if not name.startswith(NOT_A_FILE))
    return (key,)


class FileView(io.RawIOBase):
    """A file of `Files` as a stream that can be sought in, for formats that are too large to be read whole."""

    def __init__(self, files: Files, name: str) -> None:
        self._files, self._name, self._at = files, name, 0
        self._size = files.size(name)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's buffer type has no name here
        data = self._files.read(self._name, self._at, min(len(buffer), 16 * READ_AHEAD))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def stream(files: Files, name: str) -> io.BufferedReader:
    """Return a file as a buffered stream."""
    return io.BufferedReader(FileView(files, name), READ_AHEAD)
