"""The copy of a database before its tables change: whole, private, few of them, and never at the price of a full disk."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from salus.common.errors import StorageError
from salus.common.keeping import MOST_KEPT, keep_before, kept
from salus.common.sqlite import open_sqlite


def database(path: Path) -> Path:
    with open_sqlite(path).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (n INTEGER)")
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
    return path


def rows(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        return [n for (n,) in connection.execute("SELECT n FROM t")]
    finally:
        connection.close()


def test_a_copy_is_whole_and_private_while_another_connection_writes(tmp_path: Path) -> None:
    path = database(tmp_path / "a.sqlite")
    with open_sqlite(path).connect() as other:
        other.exec_driver_sql("BEGIN IMMEDIATE")
        other.exec_driver_sql("INSERT INTO t VALUES (2)")
        copy = keep_before(path, "0001")
        other.commit()
    assert rows(copy) == [1]
    assert rows(path) == [1, 2]
    assert copy.stat().st_mode & 0o077 == 0


def test_only_the_newest_copies_are_kept_and_one_of_the_same_version_is_replaced(tmp_path: Path) -> None:
    path = database(tmp_path / "a.sqlite")
    (tmp_path / "b.sqlite.kept-0001").write_text("of another database")
    copies = [keep_before(path, f"{number:04d}") for number in (1, 2, 3, 3, 4)]
    assert kept(path) == [copies[4], copies[3]]
    assert MOST_KEPT == 2
    assert sorted(each.name for each in tmp_path.glob("*kept*")) == [
        "a.sqlite.kept-0003",
        "a.sqlite.kept-0004",
        "b.sqlite.kept-0001",
    ]


def test_without_space_for_copy_and_change_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = database(tmp_path / "a.sqlite")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=path.stat().st_size))
    with pytest.raises(StorageError, match="nothing was changed"):
        keep_before(path, "0001")
    assert kept(path) == []


def test_a_damaged_database_is_an_error_with_a_remedy_and_leaves_no_copy(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match="damaged"):
        keep_before(path, "0001")
    assert list(tmp_path.iterdir()) == [path]
