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


def test_a_line_for_which_there_is_no_space_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.emit("first")
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda number, data: write(number, data[: 2 * len(data) // 3]))
        log.emit("second")
    log.emit("third")
    assert [event.kind for event in read_events(path)] == ["first", "third"]
    assert len(path.read_bytes().splitlines()) == 2
