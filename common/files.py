"""Files that are written completely or not at all, even if the process is killed or the disk is full."""

import contextlib
import errno
import os
import weakref
from collections.abc import Callable
from pathlib import Path

from salus.common.errors import ConfigError, storage_error

SHARED = "slurm"  # a folder beside the databases of a site whose worker runs on another machine

APPENDING = os.O_WRONLY | os.O_CREAT | os.O_APPEND
BLOCK = 65536  # bytes that are read at once from the end of a file


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` as `replace_whole` does."""
    replace_whole(path, lambda beside: beside.write_bytes(data))


def replace_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a file beside `path`, sync it to disk and atomically replace `path` with it.

    Raises:
        StorageError: the disk is full, or the folder cannot be written to; `path` is unchanged, also after any error of `write`.
    """
    beside = path.with_name(path.name + ".part")
    try:
        if beside.is_symlink():  # in a folder of somebody else: it would lead to another file
            beside.unlink()
        write(beside)
        sync(beside)
        beside.replace(path)
        sync(path.parent)
    except BaseException as problem:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(problem, OSError):
            raise storage_error(problem) or problem from None
        raise


def append_line(path: Path, line: bytes) -> None:
    """Append a line and its end to a file, whole or not at all; other processes may append to it at the same time.

    Raises:
        OSError: it cannot be written, as on a full disk; nothing of it is kept.
    """
    number = os.open(path, APPENDING, 0o666)
    try:
        _append(number, path, line)
    finally:
        os.close(number)


def _append(number: int, path: Path, line: bytes) -> None:
    written = os.write(number, line + b"\n")
    if written <= len(line):  # the disk has become full in the middle
        end = os.lseek(number, 0, os.SEEK_CUR)
        if end == os.fstat(number).st_size:  # otherwise somebody else's line stands behind it
            os.ftruncate(number, end - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


class OpenLines:
    """Appends lines as `append_line` does, to a file that stays open while it has its name; from one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path, self._number = path, -1
        self._is: tuple[int, int] | None = None  # which file is open: device and inode
        self._close: Callable[[], object] = lambda: None

    def append(self, line: bytes) -> None:
        """Append a line and its end; errors as of `append_line`."""
        try:
            there = os.stat(self._path)
            same = (there.st_dev, there.st_ino) == self._is
        except FileNotFoundError:
            same = False
        if not same:  # not open yet, or renamed, removed or replaced meanwhile, as by `segments.rotate`
            self._open()
        _append(self._number, self._path, line)

    def _open(self) -> None:
        self._close()
        self._is = None
        number = os.open(self._path, APPENDING, 0o666)
        self._close = weakref.finalize(self, os.close, number)
        found = os.fstat(number)
        self._number, self._is = number, (found.st_dev, found.st_ino)


def drop_half_line(path: Path) -> None:
    """Remove an incomplete last line, left by a loss of power, so that the next line is not read as part of it."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = kept = file.seek(0, os.SEEK_END)
        while kept:
            first = max(0, kept - BLOCK)
            file.seek(first)
            found = file.read(kept - first).rfind(b"\n")
            if found >= 0:
                kept = first + found + 1
                break
            kept = first
        if kept < end:
            file.truncate(kept)


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def check_new_folder(folder: Path, *made_by: str) -> None:
    """Check, before anything is written, that a member's folder can be created at `folder`.

    Args:
        made_by: file names that show that the folder was already set up.

    Raises:
        ConfigError: not a folder, not empty, or not writable.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder.name!r} is not a folder.", remedy="Choose another name.")
    if folder.exists():
        found = {entry.name for entry in folder.iterdir()}
        if found & set(made_by):
            raise ConfigError(
                f"{folder.name!r} is already set up; its keys are never overwritten.", remedy="Choose another folder."
            )
        if found:
            raise ConfigError(f"The folder {folder.name!r} is not empty.", remedy="Choose a new or empty folder.")
    nearest = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(
            f"Cannot create the folder {folder.name!r}: {nearest.name!r} cannot be written to.",
            remedy="Choose another location, or correct its permissions.",
        )
