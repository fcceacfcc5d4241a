"""A copy of a database as it was, beside it, before its tables change: an older Salus can go on with it.

Only files of SQLite; a database in PostgreSQL is backed up by its own tools. How to go back: docs/upgrade.md.
"""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from salus.common.errors import StorageError, storage_error
from salus.common.files import replace_whole
from salus.common.sqlite import sqlite_problem

KEPT = ".kept-"  # between the name of the database and its former version
MOST_KEPT = 2
SPARE_BYTES = 64 * 2**20


def keep_before(path: Path, version: str) -> Path:
    """Copy a database before it is brought to a newer version, and return the copy; only the newest copies are kept.

    Args:
        version: of the tables as they are now, letters and digits.

    Guarantees: the copy is whole and on disk before this returns, is readable by the owner only, and is made while others
    read and write the database.

    Raises:
        StorageError: not enough free space for the copy and for the change of the tables; nothing is changed then.
    """
    size = path.stat().st_size + _size_of(path.with_name(path.name + "-wal"))
    free = shutil.disk_usage(path.parent).free
    if free < 2 * size + SPARE_BYTES:
        raise StorageError(
            f"The database {path.name!r} must be brought to a newer version, for which "
            f"{(2 * size + SPARE_BYTES) // 2**20} MB must be free; {free // 2**20} MB are.",
            remedy="Free some space and start again; nothing was changed.",
        )
    copy = path.with_name(f"{path.name}{KEPT}{version}")
    replace_whole(copy, lambda beside: _copy(path, beside))
    for old in kept(path)[MOST_KEPT:]:
        old.unlink(missing_ok=True)
    return copy


def kept(path: Path) -> list[Path]:
    """Return the copies of a database that are kept, the newest first."""
    found = [other for other in path.parent.glob(f"{path.name}{KEPT}*") if not other.name.endswith(".part")]
    return sorted(found, key=lambda other: other.stat().st_mtime_ns, reverse=True)


def _copy(path: Path, beside: Path) -> None:
    try:
        os.close(os.open(beside, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_NOFOLLOW, 0o600))
        with (
            contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as opened,
            contextlib.closing(sqlite3.connect(beside)) as written,
        ):
            opened.backup(written)
    except sqlite3.Error as problem:
        raise sqlite_problem(problem, path.name) or problem from None
    except OSError as problem:
        raise storage_error(problem) or problem from None


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
