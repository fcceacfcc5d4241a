"""Full and read-only disks under real daemons: nobody's process ends, no job is lost, and logs hold whole lines."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.builders import job_text, write_npz
from tests.faults.disks import Disk, small_disk
from tests.processes import Forked

from salus.client.config import open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.common.events import read_events
from salus.simulations.trial import Trial, empty

POLICY = "allow_unprotected = true\nallow_without_noise = true\n"
JOB = job_text(rounds=12, min_sites=2, model="cnn", training="local_epochs = 2")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def federation(folder: Path, stack: ExitStack, disk: str) -> tuple[Trial, Disk]:
    """Return a running federation of three sites, with one member's folder on a small disk."""
    empty(folder)
    mounted = stack.enter_context(small_disk(folder / disk, 24))
    trial = Trial(folder, ["One", "Two", "Three"], policy=POLICY, launcher=Forked)
    for number, site in enumerate(trial.sites, start=1):
        open_catalogue(site).add("toy", "medmnist", write_npz(site / "toy.npz", seed=number), SourceOptions())
    stack.enter_context(trial)
    trial.start_all()
    return trial, mounted


def whole_lines(log: Path) -> bool:
    """Return whether every line of a log is one event."""
    data = log.read_bytes()
    return data.endswith(b"\n") and all(json.loads(line)["kind"] for line in data.splitlines())


def test_a_full_disk_of_the_coordinator_stops_neither_it_nor_the_job(tmp_path: Path, stack: ExitStack) -> None:
    trial, disk = federation(tmp_path / "t", stack, "coordinator")
    job = trial.submit(JOB)
    trial.wait_for_round(job, 2)
    disk.fill()
    trial._wait(lambda: trial.admin.get("/status")["storage"] or None, "the coordinator to notice", 60)
    disk.free()
    result = trial.wait_for(job)
    assert result["status"] == "finished"
    assert [record["round"] for record in result["rounds"]] == list(range(1, 13))
    assert Path(result["report"]).exists()
    assert whole_lines(trial.coordinator / "events.jsonl")
    assert [e.kind for e in read_events(trial.coordinator / "events.jsonl")].count("job-ended") == 1


def test_a_full_disk_of_a_site_fails_no_job_and_the_site_comes_back(tmp_path: Path, stack: ExitStack) -> None:
    trial, disk = federation(tmp_path / "t", stack, "site-2")
    job = trial.submit(JOB)
    trial.wait_for_round(job, 1)
    disk.fill()
    left_out = trial._wait(lambda: answers(trial, job) or None, "the site's refusal", 600)
    disk.free()
    assert "disk is full" in left_out[0]
    result = trial.wait_for(job)
    assert result["status"] == "finished"
    again = trial.wait_for(trial.submit(JOB))
    assert [record["sites"] for record in again["rounds"]] == [[1, 2, 3]] * 12
    assert whole_lines(trial.sites[1] / "events.jsonl")


def answers(trial: Trial, job: str) -> list[str]:
    """Return why site 2 was left out of rounds."""
    events = trial.admin.get(f"/jobs/{job}/events")
    return [e["fields"]["text"] for e in events if e["kind"] == "left-out" and e["fields"]["site"] == 2]
