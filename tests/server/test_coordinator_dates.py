"""A coordinator whose roster ends starts nothing and stops what runs; the job is there for the next roster."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.builders import job_text
from tests.server.test_consortium import found

from salus.common.clock import ManualClock
from salus.common.kit import read_kit
from salus.common.trust import install_kit
from salus.server.config import ServerFolder
from salus.server.daemon import CoordinatorDaemon


def test_after_the_roster_has_ended_no_job_is_begun_and_a_running_one_must_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(datetime(2026, 11, 1, tzinfo=UTC))
    _, kits = found(tmp_path)
    install_kit(tmp_path / "server", read_kit(kits[0]), clock)
    heard: list[str] = []
    daemon = CoordinatorDaemon(
        ServerFolder.open(tmp_path / "server", clock), clock, lambda event: heard.append(event.kind)
    )
    begun: list[str] = []
    monkeypatch.setattr(daemon._runner, "run", lambda row, *_: begun.append(row.job_id))
    job = daemon.submit(job_text(), anyway=True)
    daemon._look_for_work(0.1)
    daemon._scheduler.join()
    assert begun == [job]
    assert not daemon._scheduler.must_end(job)
    clock.sleep(11 * 86_400)
    daemon._look_for_work(0.1)
    assert begun == [job]
    assert daemon._scheduler.must_end(job)
    assert heard.count("roster-ends") == 1
    assert heard.count("roster-ended") == 1
    assert [row.status for row, _ in daemon.jobs()] == ["waiting"]


def test_submit_tells_who_would_not_be_asked(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 11, 1, tzinfo=UTC))
    _, kits = found(tmp_path)
    install_kit(tmp_path / "server", read_kit(kits[0]), clock)
    daemon = CoordinatorDaemon(ServerFolder.open(tmp_path / "server", clock), clock)
    result = daemon.result(daemon.submit(job_text(), anyway=True))
    assert result["absent"] == [
        {"site": 1, "name": "Site 1", "reason": "offline"},
        {"site": 2, "name": "Site 2", "reason": "offline"},
    ]
