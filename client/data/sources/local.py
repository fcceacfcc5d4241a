"""The files of a data set on this machine's disk, opened so that no name and no link leads out of the folder."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel

from salus.client.data.dicom.messages import MAX_FILE_BYTES
from salus.client.data.sources.base import LABELS, Stamp, stamp_of
from salus.common.errors import UnreadableImage

Refuse = Callable[[str, str, str], None]  # what is told of an entry that is passed over: its name, a reason, a detail
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe without a writer must not block


class LocalFiles:
    """`Files` below a root, or a root that is one file.

    Args:
        options: name a label file and folders of masks and annotations; these may lie elsewhere.
        own: files of Salus itself in the root, which are not listed.

    Attributes:
        named_labels: the label file as the operator named it; empty if none was named.
    """

    def __init__(self, root: Path, options: BaseModel, own: frozenset[str] = frozenset()) -> None:
        self._root, self._alone, self._own = root, root.is_file(), own
        self.named_labels = _named(options, "labels")
        self._labels = self.named_labels or LABELS
        self._folders = tuple(filter(None, (_named(options, "masks"), _named(options, "annotations"))))

    def names(self, below: str = "") -> Iterator[str]:
        """Yield the names, see `Files`; raises UnreadableImage for a folder that does not exist."""
        if self._alone:
            yield self._root.name
        elif below == "":
            yield from self._below_root(_unsaid)
        elif below in self._folders and (self._root / below).is_dir():
            yield from _walked(self._root / below, f"{below}/", _unsaid)
        else:
            raise UnreadableImage("missing", "the folder does not exist")

    def _below_root(self, refuse: Refuse) -> Iterator[str]:
        return (name for name in _walked(self._root, "", refuse) if name not in self._own)

    def every(self, refuse: Refuse) -> Iterator[str]:
        """Yield the names below the root, and then those below folders that the options name elsewhere.

        Args:
            refuse: is told of links, folders that cannot be listed, and what is neither a file nor a folder.
        """
        yield from self.names() if self._alone else self._below_root(refuse)
        for folder in self._folders if not self._alone else ():
            if folder.startswith("/") or ".." in Path(folder).parts:
                with contextlib.suppress(UnreadableImage):
                    yield from self.names(folder)

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        return self.facts(name).st_size

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return a file's bytes, see `Files`."""
        handle = self._open(name)
        with open(handle, "rb", buffering=0) as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise UnreadableImage("unreadable", "it is not a regular file")
            if length is None and found.st_size - offset > MAX_FILE_BYTES:
                raise UnreadableImage("too-large", f"the file is larger than {MAX_FILE_BYTES} bytes")
            wanted = max(0, min(found.st_size - offset, MAX_FILE_BYTES if length is None else length))
            parts, left = [], wanted
            try:
                file.seek(offset)
                while left and (part := file.read(left)):
                    parts.append(part)
                    left -= len(part)
            except OSError:
                raise UnreadableImage("unreadable", "the file cannot be read") from None
            return parts[0] if len(parts) == 1 else b"".join(parts)

    def facts(self, name: str) -> os.stat_result:
        """Return a regular file's facts; raises UnreadableImage if there is no readable one."""
        handle = self._open(name)
        try:
            found = os.fstat(handle)
        finally:
            os.close(handle)
        if not stat.S_ISREG(found.st_mode):
            raise UnreadableImage("unreadable", "it is not a regular file")
        return found

    def stamp(self, names: list[str]) -> Stamp | None:
        """Return a stamp that changes with any of these files; None if one is missing or cannot be read."""
        try:
            return stamp_of((Path(name).name, self.facts(name)) for name in names)
        except UnreadableImage:
            return None

    def _open(self, name: str) -> int:
        try:
            if name == self._labels or name in self._folders:
                return os.open(self._root / name, FILE & ~os.O_NOFOLLOW)  # the operator named it, so it may be a link
            if self._alone:
                if name != self._root.name:
                    raise FileNotFoundError
                return os.open(self._root, FILE & ~os.O_NOFOLLOW)
            for folder in self._folders:
                if name.startswith(f"{folder}/"):
                    return _beneath(self._root / folder, name[len(folder) + 1 :])
            return _beneath(self._root, name)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            raise UnreadableImage("missing", "the file no longer exists") from None
        except OSError:
            raise UnreadableImage("unreadable", "the file cannot be read") from None


def _named(options: BaseModel, key: str) -> str:
    """Return the path that an option names; empty where a reader has no such option."""
    named = getattr(options, key, "")
    return named if isinstance(named, str) else ""


def _beneath(folder: Path, name: str) -> int:
    """Open a file below a folder, one part of its path at a time, without following links."""
    *folders, last = name.split("/")
    if not last or {"", ".", ".."} & {*folders, last}:
        raise FileNotFoundError
    here = os.open(folder, FOLDER & ~os.O_NOFOLLOW)
    try:
        for part in folders:
            there = os.open(part, FOLDER, dir_fd=here)
            os.close(here)
            here = there
        return os.open(last, FILE, dir_fd=here)
    finally:
        os.close(here)


def _walked(folder: Path, prefix: str, refuse: Refuse) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        refuse(prefix, "unreadable", "the folder cannot be listed")
        return
    for entry in found:
        name = f"{prefix}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _walked(folder / entry.name, f"{name}/", refuse)
        elif entry.is_file(follow_symlinks=False):
            yield name
        elif entry.is_symlink():
            refuse(name, "link", "a symbolic link is not followed")
        else:
            refuse(name, "not-a-file", "a pipe, socket or device")


def _unsaid(name: str, reason: str, detail: str) -> None:
    """Pass over an entry without a word: the scan reports it."""
