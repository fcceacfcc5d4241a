"""A coordinator whose machine cannot write keeps running, loses nothing, says so once, and goes on when it can write again."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.builders import job_text, tiny_job
from tests.cli import salus

from salus.common.clock import SystemClock
from salus.common.errors import StorageError
from salus.common.events import Event
from salus.common.identity import Identity
from salus.common.job import seal_job
from salus.common.models import build_model
from salus.common.vectors import layout_of, read_parameters
from salus.server import running
from salus.server.checkpoints import Checkpoints
from salus.server.config import ServerFolder
from salus.server.daemon import IDLE_POLL_S, STORAGE_RETRY_S, CoordinatorDaemon
from salus.server.inviting import Cancelled
from salus.server.transcripts import Transcript
from salus.simulations.trial import Trial


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path / "t", ["One", "Two"], policy="")


def daemon(trial: Trial, told: list[Event]) -> CoordinatorDaemon:
    return CoordinatorDaemon(ServerFolder.open(trial.coordinator, SystemClock()), SystemClock(), told.append)


def test_a_place_that_cannot_be_written_stops_the_job_from_starting_and_not_the_coordinator(trial: Trial) -> None:
    told: list[Event] = []
    coordinator = daemon(trial, told)
    job_id = coordinator.submit(job_text(), anyway=True)
    begun: list[str] = []
    coordinator._runner.run = lambda row, *_: begun.append(row.job_id)  # type: ignore[method-assign]
    (trial.coordinator / "reports").touch()  # a file in place of the folder
    pause = IDLE_POLL_S
    for _ in range(10):
        pause = coordinator._look_for_work(pause)
    assert pause == STORAGE_RETRY_S
    assert begun == []
    assert [row.status for row, _ in coordinator.jobs()] == ["waiting"]
    assert [event.kind for event in told] == ["storage-failed"], "it is said once"
    assert "'reports'" in str(told[0].fields["text"]) or "'.probe'" in str(told[0].fields["text"])
    (trial.coordinator / "reports").unlink()
    assert coordinator._look_for_work(pause) == IDLE_POLL_S
    coordinator._scheduler.join()
    assert begun == [job_id]
    assert told[-1].kind == "storage-restored"


@pytest.mark.parametrize("problem", [StorageError("Cannot use it.", remedy="Free some space."), OSError(28, "full")])
def test_a_disk_that_fills_while_a_job_runs_leaves_the_job_to_be_resumed(
    trial: Trial, problem: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Event] = []
    coordinator = daemon(trial, told)
    job_id = coordinator.submit(job_text(), anyway=True)

    def fail(*_: object) -> None:
        raise problem

    monkeypatch.setattr(coordinator._runner, "_work", fail)
    coordinator._look_for_work(IDLE_POLL_S)
    coordinator._scheduler.join()
    assert coordinator._look_for_work(IDLE_POLL_S) > IDLE_POLL_S
    assert [(row.job_id, row.status) for row, _ in coordinator.jobs()] == [(job_id, "running")]
    assert told[-1].kind == "storage-failed"
    monkeypatch.setattr(coordinator._runner, "_work", lambda *_: None)
    coordinator._look_for_work(IDLE_POLL_S)
    coordinator._scheduler.join()
    assert [row.status for row, _ in coordinator.jobs()] == ["finished"]
    assert "storage-restored" in [event.kind for event in told]


def test_an_error_of_the_code_still_fails_the_job(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = daemon(trial, [])
    coordinator.submit(job_text(), anyway=True)

    def fail(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(coordinator._runner, "_work", fail)
    coordinator._look_for_work(IDLE_POLL_S)
    coordinator._scheduler.join()
    assert [row.status for row, _ in coordinator.jobs()] == ["failed"]


def test_a_database_from_before_a_job_does_not_cost_its_transcript(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sites' signatures outlive a database that was restored without them."""

    def stop(*_: object, **__: object) -> None:
        raise Cancelled("", remedy="")

    monkeypatch.setattr(running, "Attempts", stop)
    coordinator = daemon(trial, [])
    job_id = coordinator.submit(job_text(), anyway=True)
    transcript = Transcript(trial.coordinator / "transcripts" / f"{job_id}.jsonl")
    file, lines = trial.coordinator / "transcripts" / f"{job_id}.jsonl", []
    for kind in ("roster", "session"):
        transcript(kind)
        coordinator._look_for_work(IDLE_POLL_S)
        coordinator._scheduler.join()
        lines.append([json.loads(line)["kind"] for line in file.read_text().splitlines()])
    assert lines == [["transcript", "roster"], ["transcript", "roster", "session", "roster"]]


def test_a_model_that_cannot_be_written_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tiny_job()
    store = Checkpoints(tmp_path)
    job_id = store.submit(seal_job(job, Identity.generate()), "tiny")
    model = build_model(job.task, 0)
    layout = layout_of(model)
    first = read_parameters(model, layout)
    store.save_round(job_id, 1, layout, first, {}, {"round": 1})
    store.model_path(job_id, 2).with_name("round-00002.safetensors.part").mkdir()  # nothing can be written there
    with pytest.raises((StorageError, OSError)):
        store.save_round(job_id, 2, layout, first + 1, {}, {"round": 2})
    assert [record["round"] for record in store.records(job_id)] == [1]
    assert np.array_equal(store.load_model(job_id, 1, layout)[0], first)


DAMAGED = {
    "server start": ("coordinator.sqlite", ["server", "start"]),
    "dataset list": ("catalogue.sqlite", ["dataset", "list"]),
    "ledger show": ("ledger.sqlite", ["ledger", "show"]),
    "client start": ("sessions.sqlite", ["client", "start"]),
}


@pytest.mark.parametrize("command", DAMAGED)
def test_each_command_says_in_one_line_that_its_database_is_damaged(trial: Trial, command: str) -> None:
    name, words = DAMAGED[command]
    member = trial.coordinator if command == "server start" else trial.sites[0]
    for old in member.glob(f"{name}*"):
        old.unlink()
    (member / name).write_bytes(b"no database at all, but long enough to be read as one" * 100)
    result = salus(*words, member)
    assert result.returncode == 60, result.stderr
    assert "unexpected" not in result.stderr
    assert "damaged" in result.stderr
    assert str(member) not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_first_statement_after_opening_is_translated_too(tmp_path: Path) -> None:
    (tmp_path / "coordinator.sqlite").mkdir()
    with pytest.raises(StorageError):
        Checkpoints(tmp_path)
