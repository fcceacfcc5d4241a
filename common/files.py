"""Files that are written completely or not at all, even if the process is killed or the disk is full."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from salus.common.errors import ConfigError, storage_error


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
