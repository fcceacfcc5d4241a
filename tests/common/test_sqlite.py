"""A database that cannot be used says so in one line with the remedy, whatever is wrong with it."""

import os
import re
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from salus.common.errors import StorageError, describe, storage_error
from salus.common.sqlite import open_sqlite, sqlite_problem

TABLE = sa.Table("t", sa.MetaData(), sa.Column("x", sa.Integer, primary_key=True), sa.Column("y", sa.LargeBinary))


def filled(path: Path) -> sa.Engine:
    engine = open_sqlite(path)
    TABLE.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(TABLE.insert(), [{"x": n, "y": bytes(1000)} for n in range(100)])
    return engine


def read(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return len(connection.execute(sa.select(TABLE)).all())


def insert(engine: sa.Engine, pragma: str, size: int) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"PRAGMA {pragma}")
        connection.execute(TABLE.insert(), [{"x": n, "y": bytes(size)} for n in range(200, 400)])


def test_a_full_database_is_a_storage_error_and_what_was_committed_stays(tmp_path: Path) -> None:
    """SQLite's own limit on pages gives the same result code as a full disk."""
    engine = filled(tmp_path / "x.sqlite")
    with pytest.raises(StorageError, match="'x.sqlite': the disk is full. Free some space"):
        insert(engine, "max_page_count = 1", 10_000)
    assert read(engine) == 100


@pytest.mark.parametrize("content", [b"this is not a database at all" * 40, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.sqlite").write_bytes(content)
    with pytest.raises(StorageError, match="damaged. Stop the daemon"):
        read(open_sqlite(tmp_path / "x.sqlite"))


def test_a_damaged_page_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    filled(path).dispose()
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(StorageError, match="damaged"):
        read(open_sqlite(path))


def test_a_folder_in_place_of_the_file_and_a_folder_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").mkdir()
    with pytest.raises(StorageError, match="cannot be opened"):
        read(open_sqlite(tmp_path / "x.sqlite"))
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="'file': it already exists"):
        open_sqlite(tmp_path / "file" / "x.sqlite")


def test_a_read_only_database_is_named_without_its_folder(tmp_path: Path) -> None:
    engine = filled(tmp_path / "x.sqlite")
    with pytest.raises(StorageError) as caught:
        insert(engine, "query_only = 1", 1)
    assert "read-only" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_lock_that_another_process_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salus.common.sqlite.BUSY_TIMEOUT_S", 0.01)
    engine = filled(tmp_path / "x.sqlite")
    other = sqlite3.connect(tmp_path / "x.sqlite")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageError, match="another process"), engine.begin() as connection:
        connection.execute(TABLE.insert().values(x=1000))
    other.close()


def test_a_mistake_in_our_own_statement_is_not_called_storage(tmp_path: Path) -> None:
    engine = filled(tmp_path / "x.sqlite")
    with pytest.raises(sa.exc.OperationalError), engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM nowhere")
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(TABLE.insert().values(x=1))
    assert sqlite_problem(ValueError("x"), "x") is None


def test_what_the_system_says_of_a_file_is_described_without_its_folder() -> None:
    text = describe(PermissionError(13, "Permission denied", "/home/smith/secret/x.html"))
    assert text == (
        "Cannot use the file 'x.html': permission is denied. "
        "Run as the user who owns the folder, or correct its permissions."
    )
    assert re.search("disk is full", str(storage_error(OSError(28, "No space left on device"))))
    assert "unexpected" in describe(OSError("something else at /home/smith"))
    assert "smith" not in describe(OSError("something else at /home/smith"))
