"""A place for a result that cannot be written is an error before the work, and a failed run leaves the old result alone."""

from pathlib import Path

import pytest

from salus.common.errors import StorageError
from salus.common.outputs import Output


def test_the_result_is_in_its_place_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    with Output(path) as output:
        assert path.read_text() == "old"
        output.write("new")
        assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_fails_leaves_the_old_result_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), Output(path):
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("place", "text"), [("absent/x.json", "'x.json': the file or its folder does not exist"), (".", "is a folder")]
)
def test_a_wrong_place_is_known_at_once(tmp_path: Path, place: str, text: str) -> None:
    with pytest.raises(StorageError, match=text):
        Output(tmp_path / place)


def test_a_full_device_is_said_with_its_name() -> None:
    with Output(Path("/dev/full")) as output, pytest.raises(StorageError, match="'full': the disk is full"):
        output.write("x")
    assert Path("/dev/full").exists()
