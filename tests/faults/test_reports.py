"""A report that cannot be written when its job ends."""

from pathlib import Path

import pytest
from tests.builders import job_text

from salus.common.clock import SystemClock
from salus.common.errors import StorageError
from salus.common.events import Event
from salus.server import reporting
from salus.server.config import ServerFolder
from salus.server.daemon import IDLE_POLL_S, CoordinatorDaemon
from salus.server.running import JobRunner
from salus.simulations.trial import Trial


def daemon(trial: Trial, told: list[Event]) -> CoordinatorDaemon:
    return CoordinatorDaemon(ServerFolder.open(trial.coordinator, SystemClock()), SystemClock(), told.append)


def look(coordinator: CoordinatorDaemon) -> None:
    """Let the coordinator look for work several times, and wait for what it begins."""
    for _ in range(3):
        coordinator._look_for_work(IDLE_POLL_S)
        coordinator._scheduler.join()


def full(*_: object) -> None:
    raise StorageError("Cannot use the file 'x': the disk is full.", remedy="Free some space.")


@pytest.mark.parametrize("restarted", [False, True])
def test_a_report_for_which_there_is_no_space_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    trial, told = Trial(tmp_path / "t", ["One", "Two"], policy=""), list[Event]()
    coordinator = daemon(trial, told)
    job = coordinator.submit(job_text(), anyway=True)
    monkeypatch.setattr(JobRunner, "_work", lambda *_: None)
    with monkeypatch.context() as patched:
        patched.setattr(reporting.Reports, "_write", full)
        look(coordinator)
        found = coordinator.result(job)
        assert (found["status"], found["reason"], found["report"]) == ("finished", reporting.NO_REPORT, None)
    written: list[str] = []
    monkeypatch.setattr(reporting.Reports, "_write", lambda reports, job_id: written.append(job_id))
    if restarted:
        coordinator = daemon(trial, told)
    look(coordinator)
    assert written == [job], "once"
    assert coordinator.result(job)["reason"] == ""
    assert told[-1].kind == "reported"


def test_a_report_that_fails_for_another_reason_is_not_tried_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from salus.common.errors import RoundError

    def wrong(*_: object) -> None:
        raise RoundError("Nothing to report.", remedy="None.")

    trial, told = Trial(tmp_path / "t", ["One", "Two"], policy=""), list[Event]()
    coordinator = daemon(trial, told)
    job = coordinator.submit(job_text(), anyway=True)
    monkeypatch.setattr(JobRunner, "_work", lambda *_: None)
    monkeypatch.setattr(reporting.Reports, "_write", wrong)
    look(coordinator)
    assert coordinator.result(job)["status"] == "finished"
    assert [event.kind for event in told].count("no-report") == 1
