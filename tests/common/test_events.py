import contextlib
import gc
import os
from pathlib import Path

import pytest

from salus.common.events import EventLog, read_events


def test_log_round_trips_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    seen: list[str] = []
    log = EventLog(path, listeners=(lambda event: seen.append(event.kind),))
    log.emit("round", round=1, metrics={"auc": 0.5})
    log.emit("end")
    with path.open("ab") as file:
        file.write(b'{"at":"2026')
    assert [event.kind for event in read_events(path)] == seen == ["round", "end"]
    assert read_events(path)[0].fields["metrics"] == {"auc": 0.5}


def test_a_log_that_cannot_be_written_does_not_stop_the_work(tmp_path: Path) -> None:
    seen: list[str] = []
    EventLog(tmp_path / "no" / "such" / "folder", listeners=(lambda event: seen.append(event.kind),)).emit("round")
    assert seen == ["round"]


@pytest.mark.parametrize("cut", [b'{"at":"2026', b"x" * 200_000, b"\0" * 4096])
def test_a_torn_line_is_removed_when_the_log_is_opened(tmp_path: Path, cut: bytes) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).emit("first")
    whole = path.read_bytes()
    path.write_bytes(whole + cut)
    log = EventLog(path)
    assert path.read_bytes() == whole
    log.emit("second")
    assert [event.kind for event in read_events(path)] == ["first", "second"]


def test_a_log_of_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"at')
    EventLog(path)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("rotates", [False, True])
def test_a_line_for_which_there_is_no_space_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rotates: bool
) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path, rotates=rotates)
    log.emit("first")
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda number, data: write(number, data[: 2 * len(data) // 3]))
        log.emit("second")
    log.emit("third")
    assert [event.kind for event in read_events(path)] == ["first", "third"]
    assert len(path.read_bytes().splitlines()) == 2


def opened(path: Path) -> int:
    """Return how often this process has a file open, under whatever name it has now."""
    found = path.stat()
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            seen = os.fstat(int(number))
            count += (seen.st_dev, seen.st_ino) == (found.st_dev, found.st_ino)
    return count


def test_a_daemons_log_is_opened_once_and_closed_with_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opens, real = tmp_path / "events.jsonl", list[str](), os.open
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", lambda name, *more: opens.append(str(name)) or real(name, *more))
        log = EventLog(path, rotates=True)
        for number in range(100):
            log.emit("round", round=number)
    assert opens == [str(path)]
    assert opened(path) == 1
    del log
    gc.collect()
    assert opened(path) == 0
    assert len(read_events(path)) == 100


def test_a_log_that_somebody_moves_removes_or_replaces_goes_on_under_its_name(tmp_path: Path) -> None:
    path, old = tmp_path / "events.jsonl", tmp_path / "old.jsonl"
    log = EventLog(path, rotates=True)
    log.emit("first")
    path.rename(old)
    log.emit("second")
    assert ([event.kind for event in read_events(path)], opened(old)) == (["second"], 0)
    path.unlink()
    log.emit("third")
    old.replace(path)
    log.emit("fourth")
    assert [event.kind for event in read_events(path)] == ["first", "fourth"]
    path.unlink()
    path.mkdir()
    log.emit("lost")
    path.rmdir()
    log.emit("fifth")
    assert [event.kind for event in read_events(path)] == ["fifth"]
