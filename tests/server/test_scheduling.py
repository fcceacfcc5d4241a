"""Which jobs run at once, which wait and why, and that a crash, a full disk or a cancelled job leaves the others alone."""

import threading
from pathlib import Path

import pytest
from tests.builders import job_text

from salus.common.errors import StorageError
from salus.common.identity import Identity
from salus.common.job import parse_job, seal_job
from salus.server.checkpoints import Checkpoints, JobRow
from salus.server.scheduling import DRAINING, Scheduler, plan
from salus.server.wishes import FOLDER, Wishes

KEY = Identity.generate()
NOISED = 'noise = "local"\nepsilon = 8.0\ndelta = 1e-3\npatients_per_site = 20'


def row(job_id: str, status: str = "waiting", **changes: object) -> JobRow:
    return JobRow(job_id, seal_job(parse_job(job_text(**changes)), KEY), status, "", "")  # type: ignore[arg-type]


def ids(rows: tuple[JobRow, ...]) -> list[str]:
    return [found.job_id for found in rows]


def test_jobs_over_different_data_run_at_once_up_to_the_limit() -> None:
    found = plan([row("a", dataset="x"), row("b", dataset="y"), row("c", dataset="z")], [], limit=2)
    assert ids(found.due) == ["a", "b"]
    (waiting,) = found.queue
    assert (waiting.row.job_id, waiting.place) == ("c", 1)
    assert "2 run at once, see max_running_jobs" in waiting.reason


def test_two_jobs_without_noise_over_the_same_data_and_epoch_never_run_at_once_and_the_next_overtakes() -> None:
    jobs = [
        row("a", "running", dataset="x"),
        row("b", dataset="x", protection="masking", min_sites=3),
        row("c", dataset="y"),
    ]
    found = plan(jobs, ["a"], limit=4)
    assert ids(found.due) == ["c"]
    assert [(place.row.job_id, place.place) for place in found.queue] == [("b", 1)]
    assert "waits for a" in found.queue[0].reason
    assert ids(plan(jobs[1:], [], limit=4).due) == ["b", "c"]


def test_an_interrupted_job_comes_first_and_keeps_the_data() -> None:
    jobs = [row("a", dataset="x"), row("b", "running", dataset="x"), row("c", "running", dataset="y")]
    found = plan(jobs, [], limit=1)
    assert ids(found.due) == ["b"]
    assert [(place.row.job_id, place.place) for place in found.queue] == [("c", 1), ("a", 2)]
    assert "waits for b" in found.queue[1].reason


def test_jobs_with_noise_over_the_same_data_may_run_at_once() -> None:
    jobs = [row("a", dataset="x", privacy=NOISED), row("b", dataset="x", privacy=NOISED), row("c", dataset="x")]
    assert ids(plan(jobs, [], limit=4).due) == ["a", "b", "c"]


class World:
    """A scheduler whose jobs run until they are let go or must end."""

    def __init__(self, folder: Path, limit: int = 4) -> None:
        self.store = Checkpoints(folder)
        self.begun: dict[str, threading.Event] = {}
        self.go: dict[str, threading.Event] = {}
        self.problems: dict[str, Exception] = {}
        self.ended: list[tuple[str, str]] = []
        self.scheduler = Scheduler(self.store, self.run, limit, lambda: True, Wishes(folder), self.end)

    def end(self, job_id: str, status: str) -> None:
        self.ended.append((job_id, status))
        self.store.set_status(job_id, status)

    def submit(self, dataset: str) -> str:
        job = self.store.submit(seal_job(parse_job(job_text(dataset=dataset)), KEY), "tiny")
        self.begun[job], self.go[job] = threading.Event(), threading.Event()
        return job

    def run(self, row: JobRow) -> None:
        self.store.begin(row.job_id, "")
        self.begun[row.job_id].set()
        while not self.go[row.job_id].wait(0.01):
            if self.scheduler.must_end(row.job_id):
                if wish := self.scheduler.wish(row.job_id):
                    self.store.set_status(row.job_id, wish)
                return
        if row.job_id in self.problems:
            raise self.problems.pop(row.job_id)
        self.store.set_status(row.job_id, "finished")

    def status(self) -> list[str]:
        return [row.status for row in self.store.jobs()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_jobs_run_at_once_in_their_own_threads_and_one_that_ends_leaves_the_others(world: World) -> None:
    first, second = world.submit("x"), world.submit("y")
    world.scheduler.begin_due()
    assert all(world.begun[job].wait(60) for job in (first, second))
    assert world.scheduler.running() == (first, second)
    world.scheduler.cancel(first)
    world.go[second].set()
    world.scheduler.join()
    assert world.status() == ["cancelled", "finished"]


def test_a_waiting_job_begins_when_the_one_over_its_data_ends(world: World) -> None:
    first, second = world.submit("x"), world.submit("x")
    world.scheduler.begin_due()
    assert world.begun[first].wait(60)
    assert [place.row.job_id for place in world.scheduler.queue()] == [second]
    world.go[first].set()
    world.scheduler.join()
    world.scheduler.begin_due()
    assert world.begun[second].wait(60)
    world.scheduler.stop()
    world.scheduler.join()
    assert world.status() == ["finished", "running"], "stopped, to be resumed at the next start"


def test_a_job_that_ends_while_the_queue_is_read_does_not_begin_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, active = world.submit("x"), world.store.active
    world.scheduler.begin_due()
    assert world.begun[job].wait(60)
    world.begun[job].clear()

    def read_before_it_ends() -> list[JobRow]:
        rows = active()
        world.go[job].set()
        world.scheduler.join()
        return rows

    monkeypatch.setattr(world.store, "active", read_before_it_ends)
    world.scheduler.begin_due()
    world.scheduler.join()
    assert not world.begun[job].is_set()
    assert world.status() == ["finished"]


def test_after_a_crash_all_running_jobs_are_resumed(world: World, tmp_path: Path) -> None:
    jobs = [world.submit("x"), world.submit("y"), world.submit("x")]
    world.scheduler.begin_due()
    assert all(world.begun[job].wait(60) for job in jobs[:2])
    world.scheduler.stop()  # as `kill -9` leaves the database
    world.scheduler.join()
    again = World(tmp_path)
    again.begun, again.go = world.begun, world.go
    for event in again.begun.values():
        event.clear()
    again.scheduler.begin_due()
    assert all(again.begun[job].wait(60) for job in jobs[:2])
    assert not again.begun[jobs[2]].is_set()
    again.scheduler.stop()
    again.scheduler.join()


def test_a_job_that_the_machine_ended_continues_and_the_problem_is_reported_once(world: World) -> None:
    job = world.submit("x")
    world.problems[job] = StorageError("Cannot use it.", remedy="Free some space.")
    world.go[job].set()
    world.scheduler.begin_due()
    world.scheduler.join()
    with pytest.raises(StorageError, match="Cannot use it"):
        world.scheduler.begin_due()
    world.scheduler.begin_due()
    world.scheduler.join()
    assert world.status() == ["finished"]


def test_a_job_that_was_cancelled_while_the_machine_ended_it_does_not_begin_again(world: World) -> None:
    job = world.submit("x")
    world.problems[job] = OSError(28, "full")
    world.scheduler.begin_due()
    assert world.begun[job].wait(60)
    world.go[job].set()  # first: it must not see the wish and stop by itself
    world.scheduler.join()
    world.scheduler._wishes.put(job, "cancelled")
    with pytest.raises(OSError, match="full"):
        world.scheduler.begin_due()
    world.scheduler.begin_due()
    assert world.status() == ["cancelled"]


def test_a_cancelled_job_can_be_queued_again(world: World) -> None:
    job = world.submit("x")
    world.scheduler.cancel(job)
    assert world.status() == ["cancelled"]
    world.scheduler.begin_due()
    assert world.scheduler.running() == ()
    world.scheduler.reopen(job)
    world.go[job].set()
    world.scheduler.begin_due()
    world.scheduler.join()
    assert world.status() == ["finished"]


@pytest.mark.parametrize(
    ("wish", "status"), [("aborted", "aborted"), (DRAINING, "paused"), ("cancelled", "cancelled"), ("later", "paused")]
)
def test_a_coordinator_that_is_killed_before_a_job_has_stopped_ends_it_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: str, status: str
) -> None:
    killed = World(tmp_path)
    job, other = killed.submit("x"), killed.submit("x")
    killed.scheduler.begin_due()
    assert killed.begun[job].wait(60)
    monkeypatch.setattr(killed.scheduler, "must_end", lambda job_id: False)  # it never comes to that
    assert killed.scheduler.end(job, wish)
    again = World(tmp_path)  # the database and the folder are as `kill -9` leaves them
    again.begun, again.go = {other: threading.Event()}, {other: threading.Event()}
    assert again.status() == ["running", "waiting"]
    again.go[other].set()
    again.scheduler.begin_due()
    assert again.begun[other].wait(60), "the other one begins at once"
    again.scheduler.join()
    assert again.ended == [(job, status)]
    assert again.status() == [status, "finished"]
    assert list((tmp_path / FOLDER).iterdir()) == []
    killed.go[job].set()
    killed.scheduler.join()


def test_a_wish_that_the_disk_does_not_take_counts_until_a_restart_and_the_admin_is_told(
    world: World, tmp_path: Path
) -> None:
    job = world.submit("x")
    world.scheduler.begin_due()
    assert world.begun[job].wait(60)
    (tmp_path / FOLDER).write_text("no folder can be made here")
    with pytest.raises(StorageError, match=r"will stop, but .* give the command again"):
        world.scheduler.end(job, "aborted")
    world.scheduler.join()
    assert world.status() == ["aborted"]


def test_a_job_that_the_admin_ends_while_the_queue_is_read_is_not_ended_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second abort would be refused, in the thread that serves everything else."""
    job, active = world.submit("x"), world.store.active

    def read() -> list[JobRow]:
        rows = active()
        monkeypatch.setattr(world.store, "active", active)
        assert not world.scheduler.end(job, "aborted")
        return rows

    monkeypatch.setattr(world.store, "active", read)
    world.scheduler.begin_due()
    assert world.ended == [(job, "aborted")]
    assert world.scheduler.running() == ()


def test_a_job_that_is_resumed_while_the_queue_is_read_is_not_ended_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, reopen = world.submit("x"), world.store.reopen
    world.scheduler.end(job, "paused")
    looking = threading.Thread(target=world.scheduler.begin_due)

    def open_again(job_id: str) -> None:
        reopen(job_id)
        looking.start()
        looking.join(0.2)  # it waits for the whole command, or has ended the job again

    monkeypatch.setattr(world.store, "reopen", open_again)
    world.scheduler.reopen(job)
    looking.join()
    assert world.ended == [(job, "paused")]
    assert world.begun[job].wait(60)
    world.go[job].set()
    world.scheduler.join()
    assert world.status() == ["finished"]
