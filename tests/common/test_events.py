from pathlib import Path

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
