"""What the admin wishes of a job outlives the coordinator's process, and is carried out as if it had never ended."""

import threading
from pathlib import Path

import pytest
from tests.builders import job_text
from tests.server.test_storage import daemon

from salus.common.events import Event
from salus.server.daemon import IDLE_POLL_S
from salus.server.farewell import FOLDER as FAREWELLS
from salus.server.wishes import FOLDER, Wishes
from salus.simulations.trial import Trial


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path / "t", ["One", "Two"], policy="")


def test_a_job_that_waits_is_aborted_at_once_and_sites_are_to_be_told(trial: Trial) -> None:
    told: list[Event] = []
    coordinator = daemon(trial, told)
    job = coordinator.submit(job_text(), anyway=True)
    assert not coordinator.abort(job)
    assert coordinator.result(job)["status"] == "aborted"
    assert (trial.coordinator / FAREWELLS / f"{job}.json").exists()
    assert [event.fields.get("status") for event in told if event.kind == "job-ended"] == ["aborted"]


def test_an_abort_of_a_job_that_runs_is_carried_out_by_the_next_process_if_this_one_is_killed(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, begun, free = daemon(trial, []), threading.Event(), threading.Event()
    job = killed.submit(job_text(), anyway=True)

    def work(*_: object) -> None:
        killed._checkpoints.begin(job, "")
        begun.set()
        free.wait()

    monkeypatch.setattr(killed._runner, "run", work)
    killed._look_for_work(IDLE_POLL_S)
    assert begun.wait(60)
    assert killed.abort(job), "it still runs, and this process never gets further"
    told: list[Event] = []
    again = daemon(trial, told)
    assert again.result(job)["status"] == "running"
    again._look_for_work(IDLE_POLL_S)
    assert again.result(job)["status"] == "aborted"
    assert (trial.coordinator / FAREWELLS / f"{job}.json").exists()
    assert "started" not in [event.kind for event in told]
    free.set()
    killed._scheduler.join()
    assert list((trial.coordinator / FOLDER).iterdir()) == []


def test_a_job_that_goes_on_has_no_wish_left(tmp_path: Path) -> None:
    wishes = Wishes(tmp_path)
    wishes.put("tiny-0001", "paused")
    assert Wishes(tmp_path).get("tiny-0001") == "paused"
    wishes.forget("tiny-0001")
    assert wishes.get("tiny-0001") == Wishes(tmp_path).get("tiny-0001") == ""


def test_a_wish_that_cannot_be_read_is_a_pause(tmp_path: Path) -> None:
    (tmp_path / FOLDER / "tiny-0001.wish").mkdir(parents=True)
    assert Wishes(tmp_path).get("tiny-0001") == "paused"


def test_a_farewell_of_a_job_that_a_restored_database_does_not_have_stops_nothing(trial: Trial) -> None:
    coordinator = daemon(trial, [])
    job = coordinator.submit(job_text(), anyway=True)
    coordinator.abort(job)
    told = (trial.coordinator / FAREWELLS / f"{job}.json").rename(trial.coordinator / FAREWELLS / "tiny-0099.json")
    assert coordinator._look_for_work(IDLE_POLL_S) == IDLE_POLL_S
    assert told.exists()
