"""The files of a package in a folder or a zip, read without trusting either: every name is known, every size is bounded.

Nothing is extracted: a zip's names are compared with the names that a package may have and never used as paths.
"""

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from salus.common.errors import ConfigError, PackageError, storage_error
from salus.common.names import visible
from salus.common.package.layout import MANIFEST, MAX_ADDED, MAX_FILES, limit_of

CHUNK = 2**20
MAX_DEPTH = 3
MOST = MAX_FILES + MAX_ADDED
MAX_ENTRY = 200  # bytes of a file's line in the table of contents of a zip: 46, its name, and what zip programs add
_LOCATOR_SIZE = 20  # of a zip with extensions, right before the end record
_HEAD = struct.Struct("<26xHH")  # before each file: its last two numbers are the sizes of its name and of further facts
_EXTRA = struct.Struct("<HH")  # of one further fact: its kind and size
_HARMLESS = (0x0001, 0x000A, 0x5455, 0x5855, 0x7855, 0x7875)  # long sizes, times, owners; not another name
_STREAMED, _DESCRIPTORS = 8, (16, 12, 24, 20)  # a flag: size and CRC stand behind the file, in one of these forms
_END = struct.Struct("<4sHHHHIIH")  # the end record of a zip without extensions
ASK_AGAIN = "Ask the sender for the original package."


class Files(Protocol):
    """The files of a package, by name."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """The size of each file in bytes, as the folder or the zip states it."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield a file's bytes, at most as many as `sizes` states; raises PackageError if it cannot be read."""


def changed(what: str, remedy: str = ASK_AGAIN) -> PackageError:
    """Return the error for a package that is not as it was signed."""
    return PackageError(f"The package is not valid: {what}.", remedy=remedy)


def read(files: Files, name: str) -> bytes:
    """Return a whole file; raises PackageError if the package has no such file."""
    if name not in files.sizes:
        raise changed(f"the file {name} is missing")
    return b"".join(files.chunks(name))


@contextmanager
def opened(path: Path) -> Iterator[Files]:
    """Open the folder or the zip of a package; the names and sizes are checked, the contents are not yet.

    Raises:
        PackageError: no package, an unknown or repeated name, a link, or a size beyond its bound.
    """
    try:
        if path.is_dir():
            yield Folder(path)
        else:
            with path.open("rb") as file:
                yield Zip(file)
    except OSError as problem:
        raise storage_error(problem) or problem from None


def is_package(path: Path) -> bool:
    """Return whether a path is meant as a package: a folder with a manifest, or a zip."""
    if path.is_dir():
        return (path / MANIFEST).exists()
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def must_exist(path: Path) -> None:
    """Raise ConfigError if there is nothing under the path of a package or a file that a command is given."""
    if not path.exists():
        raise ConfigError(f"There is no file or folder {path.name!r}.", remedy="Check the path.")


class Folder:
    """A package in a folder; see `Files`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.sizes: Mapping[str, int] = {}
        found: dict[str, int] = {}
        for name, size in self._entries(root, "", 0):
            _known(name)
            found[name] = _bounded(name, size)
            if len(found) > MOST:
                raise changed(f"it has more than {MOST} files")
        self.sizes = found

    def _entries(self, folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, int]]:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number > MOST or depth > MAX_DEPTH:
                    raise changed(f"it has more than {MOST} files, or folders within folders")
                name = prefix + entry.name
                kind = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(kind.st_mode):
                    yield from self._entries(Path(entry.path), f"{name}/", depth + 1)
                elif stat.S_ISREG(kind.st_mode):
                    yield name, kind.st_size
                else:
                    raise changed(f"{_shown(name)} is a link or a device, not a file")

    def chunks(self, name: str) -> Iterator[bytes]:
        handle = os.open(self._root / name, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(handle, "rb") as file:
            yield from _exactly(file, name, self.sizes[name])


class Zip:
    """A package in a zip; see `Files`."""

    def __init__(self, file: IO[bytes]) -> None:
        _check_end(file)
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, RecursionError):
            raise changed("the zip is damaged") from None
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in self._zip.infolist():
            name = _known(member.orig_filename)
            if name in self._members:
                raise changed(f"the zip has the file {name} twice")
            if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise changed(f"the file {name} in the zip is encrypted or packed in an unusual way")
            _bounded(name, member.file_size)
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                raise changed(f"the file {name} in the zip is a link or a device")
            self._members[name] = member
        _check_between(file, list(self._members.values()), self._zip.start_dir)
        self.sizes: Mapping[str, int] = {name: member.file_size for name, member in self._members.items()}

    def chunks(self, name: str) -> Iterator[bytes]:
        try:
            with self._zip.open(self._members[name]) as file:
                yield from _exactly(file, name, self.sizes[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error):
            raise changed(f"the file {name} in the zip is damaged") from None


def _check_end(file: IO[bytes]) -> None:
    """Check the end of a zip before anything is allocated: few files, nothing behind them, nothing hidden between."""
    size = file.seek(0, os.SEEK_END)
    if size < _END.size:
        raise changed("it is neither a folder with a manifest nor a zip")
    file.seek(size - _END.size)
    mark, disk, first, here, count, length, offset, comment = _END.unpack(file.read(_END.size))
    if mark != b"PK\x05\x06" or comment:
        raise changed("the zip does not end where it says, or it has a comment")
    if disk or first or here != count or offset + length + _END.size != size:
        raise changed("the zip's table of contents does not fit the file")
    if not 1 <= count <= MOST:
        raise changed(f"the zip has {count} files, expected 1 to {MOST}")
    # Behind an entry's name, a comment could hold another table of contents, which zipfile would believe.
    if length > count * MAX_ENTRY:
        raise changed("the zip's table of contents is too long for its files")
    file.seek(max(0, size - _END.size - _LOCATOR_SIZE))
    if file.read(4) == b"PK\x06\x07":
        raise changed("the zip has a second table of contents")
    file.seek(0)


def _check_between(file: IO[bytes], members: list[zipfile.ZipInfo], table: int) -> None:
    """Check that a zip is its files one after the other, so that every program finds these and no others in it."""
    at = 0
    for member in sorted(members, key=lambda one: one.header_offset):
        file.seek(member.header_offset)
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size or member.header_offset != at:
            raise changed(f"there is something before the file {member.filename} in the zip")
        name_size, extra_size = _HEAD.unpack(head)
        _check_extra(member.extra, member.filename)
        _check_extra(file.read(name_size + extra_size)[name_size:], member.filename)
        at = member.header_offset + _HEAD.size + name_size + extra_size + member.compress_size
        if member.flag_bits & _STREAMED:
            at += _descriptor(file, at)
    if at != table:
        raise changed("there is something between the files of the zip and its table of contents")


def _descriptor(file: IO[bytes], at: int) -> int:
    """Return the size of what stands behind a file whose size was not known when it was written; 0 if there is nothing."""
    file.seek(at)
    found = file.read(max(_DESCRIPTORS) + 4)
    return next((size for size in _DESCRIPTORS if found[size : size + 4] in (b"PK\x03\x04", b"PK\x01\x02")), 0)


def _check_extra(data: bytes, name: str) -> None:
    """Check that what stands beside a name is sizes, times and owners: other entries may give the file another name."""
    while data:
        kind, size = _EXTRA.unpack(data[:4]) if len(data) >= _EXTRA.size else (0, 0)
        if kind not in _HARMLESS or _EXTRA.size + size > len(data):
            raise changed(f"the zip says more about the file {name} than its size, time and owner")
        data = data[_EXTRA.size + size :]


def _known(name: str) -> str:
    if limit_of(name) is None:
        raise changed(f"it has a file {_shown(name)}, which no package has")
    return name


def _bounded(name: str, size: int) -> int:
    most = limit_of(name)
    if most is None or size > most:
        raise changed(f"the file {_shown(name)} has {size} bytes, at most {most} are allowed")
    return size


def _exactly(file: IO[bytes], name: str, size: int) -> Iterator[bytes]:
    left = size
    while left:
        part = file.read(min(CHUNK, left))
        if not part:
            raise changed(f"the file {name} ends after {size - left} of {size} bytes")
        left -= len(part)
        yield part
    if file.read(1):
        raise changed(f"the file {name} is longer than the {size} bytes that are stated")


def _shown(name: str) -> str:
    return repr(visible(name[:80]))
