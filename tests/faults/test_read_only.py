"""File systems that the kernel has made read-only, as after an error of a disk, and a disk that fills during training."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from tests.builders import job_text, tiny_job, toy_site
from tests.faults.disks import small_disk
from tests.server.test_rounds import World

from salus.client.refusing import SPACE_REFUSED
from salus.client.running import RunningJob
from salus.common.clock import SystemClock
from salus.common.events import Event
from salus.common.identity import Identity
from salus.common.job import seal_job
from salus.common.models import build_model
from salus.common.packets import Request
from salus.common.vectors import layout_of, read_parameters
from salus.server.config import ServerFolder
from salus.server.daemon import IDLE_POLL_S, CoordinatorDaemon
from salus.server.running import JobRunner
from salus.simulations.trial import Trial, empty


def test_a_coordinator_waits_says_so_and_goes_on(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    empty(tmp_path / "t")
    with small_disk(tmp_path / "t" / "coordinator", 24) as disk:
        trial, told = Trial(tmp_path / "t", ["One", "Two"], policy=""), list[Event]()
        monkeypatch.setattr(JobRunner, "_work", lambda *_: None)
        folder = ServerFolder.open(trial.coordinator, SystemClock())
        coordinator = CoordinatorDaemon(folder, SystemClock(), told.append)
        job = coordinator.submit(job_text(), anyway=True)
        disk.remount("ro")
        for _ in range(3):
            coordinator._look_for_work(IDLE_POLL_S)
        assert [event.kind for event in told] == ["storage-failed"], "it is said once"
        assert coordinator.status()["storage"] == told[0].fields["text"] != ""
        disk.remount("rw")
        coordinator._look_for_work(IDLE_POLL_S)
        coordinator._scheduler.join()
        assert coordinator.result(job)["status"] == "finished"
        assert "storage-restored" in [event.kind for event in told]


def test_a_site_refuses_names_its_disk_and_answers_again(tmp_path: Path) -> None:
    coordinator, job = Identity.generate(), tiny_job()
    with small_disk(tmp_path / "site", 24) as disk:
        site = toy_site(tmp_path / "site", 1, coordinator.public_key)
        model = build_model(job.task, 0)
        layout = layout_of(model)
        blob = layout.encode(read_parameters(model, layout))

        def ask(attempt: int) -> tuple[str, str]:
            request = Request.model_validate(
                {"kind": "train", "job_id": "tiny-0001", "job": seal_job(job, coordinator), "round": 1,
                 "attempt": attempt, "sites": (1, 2, 3)}
            )  # fmt: skip
            reply, _ = site.handle(request, blob)
            return reply.kind, reply.text

        disk.remount("ro")
        assert ask(0) == ("refused", SPACE_REFUSED)
        disk.remount("rw")
        assert ask(1)[0] == "ok"


def test_a_site_whose_disk_fills_while_it_trains_never_takes_part_without_its_data(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job(rounds=1, min_sites=5, protection="masking"), sites=6)
    full = iter([True])

    def once_full(answer: Callable[..., object]) -> Callable[..., object]:
        def once(*words: object, **named: object) -> object:
            if next(full, False):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "state.json")
            return answer(*words, **named)

        return once

    site = world.sites.sites[4]
    prepare = site.prepare

    def prepared(*words: object) -> object:
        running = prepare(*words)  # type: ignore[arg-type]
        assert isinstance(running, RunningJob)
        running._trained = once_full(running._trained)  # type: ignore[method-assign, assignment]
        return running

    site.prepare = prepared  # type: ignore[method-assign, assignment]
    world.run()
    assert next(full, False) is False, "the disk was full once"
    log = (tmp_path / "s4" / "events.jsonl").read_text()
    assert "contributed-nothing" not in log
    assert "the disk is full" in log
    told = [event.fields["text"] for event in world.events if event.kind == "left-out"]
    assert SPACE_REFUSED in told
    assert world.store.records(world.job_id)[0]["sites"] == [1, 2, 3, 5, 6]
