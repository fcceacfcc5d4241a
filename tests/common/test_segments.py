"""Logs that rotate: nothing is lost but the oldest files, and a line keeps its number."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salus.common import events as events_module
from salus.common.clock import ManualClock
from salus.common.events import EventLog, numbered_events, read_events
from salus.common.files import append_line
from salus.common.history import History
from salus.common.segments import numbered_lines, rotate, segments


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=60))
def test_the_newest_lines_are_kept_in_order_with_their_numbers(
    sizes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    written = [f"{number}:".encode() + b"x" * size for number, size in enumerate(sizes, start=1)]
    for line in written:
        rotate(path, len(line) + 1, most=100, keep=3)
        append_line(path, line)
        assert path.stat().st_size <= 100
    kept = list(numbered_lines(path))
    first = kept[0][0]
    assert [line for _, line in kept] == written[first - 1 :]
    assert [number for number, _ in kept] == list(range(first, len(written) + 1))
    assert len(segments(path)) <= 3
    if first > 1:
        assert sum(len(line) + 1 for line in written[first - 1 :]) > 100, "more than one file was kept"


def test_other_files_are_no_part_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for name in ("events.jsonl", "events.old.jsonl", "events.0000000001.jsonl", "xevents.000000001.jsonl"):
        (tmp_path / name).write_bytes(b"1\n")
    assert list(numbered_lines(path)) == [(1, b"1")]
    assert list(numbered_lines(tmp_path / "absent.jsonl")) == []


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "rotate", lambda path, more: rotate(path, more, most=400, keep=2))


def test_a_full_log_goes_on_and_is_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    path = tmp_path / "events.jsonl"
    log = EventLog(path, clock=ManualClock(datetime(2026, 11, 27, tzinfo=UTC)), rotates=True)
    for number in range(1, 101):
        log.emit("round", job="a", round=number)
    assert len(list(tmp_path.iterdir())) == 3
    kept = list(numbered_events(path))
    assert [event.fields["round"] for _, event in kept] == [number for number, _ in kept]
    assert kept[-1][0] == 100
    assert len(kept) > 8
    assert [event for _, event in kept] == read_events(path)


def test_a_history_has_what_the_log_has_and_numbers_stay_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    path = tmp_path / "events.jsonl"
    history = History(path, most=3)
    log = EventLog(path, listeners=(history,), rotates=True)
    for number in range(1, 31):
        log.emit("round", job="ab"[number % 2], round=number)
    kept = [number for number, _ in numbered_lines(path)]
    for seen in (history, History(path, most=3), History(path)):
        assert [number for number, _ in seen.of("a")] == [number for number in kept if number % 2 == 0]
        assert [number for number, _ in seen.of("b", after=27)] == [29]
        assert seen.of("b", after=29) == []
        assert all(event.fields["round"] == number for number, event in seen.of("a"))
