"""One way to open a SQLite file: write-ahead log, synchronous FULL, foreign keys on, private to its owner."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from salus.common.errors import StorageError, storage_error
from salus.common.files import SHARED
from salus.common.versions import check_format

BUSY_TIMEOUT_S = 30.0  # a second process (the command line beside the daemon) waits for the lock instead of failing
# SQLite's result codes in the operator's words; any other code is an error in our own SQL.
PROBLEMS: tuple[tuple[str, str, str], ...] = (
    ("SQLITE_FULL", "the disk is full", "Free some space and start again; everything committed before is intact."),
    ("SQLITE_READONLY", "it is read-only", "Make the file and its folder writable for the user who runs Salus."),
    ("SQLITE_PERM", "permission is denied", "Make the file and its folder accessible to the user who runs Salus."),
    ("SQLITE_CANTOPEN", "it cannot be opened", "Check the permissions and the free space of the folder and its files."),
    ("SQLITE_BUSY", "another process has locked it", "Wait for the other command to end, or stop it, and try again."),
    ("SQLITE_LOCKED", "another process has locked it", "Wait for the other command to end, or stop it, and try again."),
    ("SQLITE_CORRUPT", "it is damaged", "Stop the daemon, keep a copy, and restore the latest backup of the file."),
    ("SQLITE_NOTADB", "it is damaged", "Stop the daemon, keep a copy, and restore the latest backup of the file."),
    ("SQLITE_IOERR", "the disk reports an error", "Check the free space and the disk, then start again."),
    ("SQLITE_PROTOCOL", "another process has locked it", "Wait for the other command to end, and try again."),
)
# A full disk is also reported as an error of the write-ahead log's files.
NO_SPACE = ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_CANTOPEN")


def open_sqlite(path: Path) -> sa.Engine:
    """Return an engine over `path`, created with mode 0600 if absent.

    Guarantees: a committed transaction survives `kill -9` and loss of power (SQLite, WAL with synchronous FULL).

    Raises:
        StorageError: here and from every later statement, if the file cannot be read or written, or is damaged.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as problem:
        raise storage_error(problem) or problem from None
    # The write-ahead log needs memory that all users of a file share, so that on two machines only the other journal is right.
    journal = "DELETE" if (path.parent / SHARED).is_dir() else "WAL"
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S}, poolclass=sa.NullPool)

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in (f"journal_mode={journal}", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine, "handle_error")
    def _translate(context: sa.engine.ExceptionContext) -> None:
        known = sqlite_problem(context.original_exception, path.name)
        if known is not None:
            raise known from None

    return engine


def open_database(path: Path, metadata: sa.MetaData, newest_format: int) -> sa.Engine:
    """Return an engine over a file with these tables, which are created if absent; the file states its format.

    The format is SQLite's ``user_version``. Tables of other modules may be in the same file if they have the same format.

    Raises:
        StorageError: as in `open_sqlite`; also a file of a newer format, or one with tables but without a format.
    """
    engine = open_sqlite(path)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # two processes may open a new file at the same time
        if sa.inspect(connection).get_table_names():
            found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            check_format(found or None, newest_format, what=f"database {path.name!r}", error=StorageError)
        else:
            connection.exec_driver_sql(f"PRAGMA user_version = {newest_format:d}")
        metadata.create_all(connection)
        connection.commit()
    return engine


def sqlite_problem(problem: BaseException, name: str) -> StorageError | None:
    """Return the meaning of an SQLite error for the database file `name`; None unless the machine is the cause."""
    code = getattr(problem, "sqlite_errorname", "")
    if not isinstance(problem, sqlite3.Error):
        return None
    for prefix, meaning, remedy in PROBLEMS:
        if code.startswith(prefix):
            full = prefix in NO_SPACE
            return StorageError(f"Cannot use the database {name!r}: {meaning}.", remedy=remedy, no_space=full)
    return None
