from pathlib import Path

from salus.client.daemon import MAX_BEGUN, Attempts


def test_a_request_that_kills_the_process_is_tried_twice_at_most(tmp_path: Path) -> None:
    path = tmp_path / "working.json"
    for _ in range(MAX_BEGUN):  # each time the process ends before `end`
        assert Attempts(path).begin("a" * 64)
    assert not Attempts(path).begin("a" * 64)
    assert Attempts(path).begin("b" * 64)


def test_finished_work_is_forgotten(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path / "working.json")
    for _ in range(5):
        assert attempts.begin("a" * 64)
        attempts.end()
    (tmp_path / "working.json").write_text("damaged")
    assert attempts.begin("a" * 64)
