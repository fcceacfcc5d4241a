"""A file is written completely or not at all."""

from pathlib import Path

import pytest

from salus.common.errors import StorageError
from salus.common.files import replace_whole, write_whole


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    for data in (b"one", b"two"):
        write_whole(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_whatever_goes_wrong_the_old_file_stays_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"old")

    def half(beside: Path) -> None:
        beside.write_bytes(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_whole(tmp_path / "file", half)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    (tmp_path / "file.part").mkdir()  # nothing can be written there
    with pytest.raises((StorageError, OSError)):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
