"""A day of two sites and a coordinator, simulated: memory, open files and disk stay flat.

What is simulated: a day has 4320 long polls of 20 s at each site. Here each lasts a few milliseconds, and 12 small jobs run
between them, one for every two hours. Daemons, TLS, signatures and databases are real. Compared are the states after a third and
at the end. What grows with real time alone (not with polls or jobs) would not be seen.
"""

import mmap
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import psutil
import pytest
from tests.builders import job_text, write_npz
from tests.processes import Forked, wait_until

from salus.client.config import open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.simulations.trial import Daemon, Trial, empty

POLLS, JOBS = 4320, 12
POLICY = "allow_unprotected = true\nallow_without_noise = true\nchecks_per_hour = 1000\n"
MEBIBYTE = 2**20


def quick(counter: Path) -> None:
    """In a daemon's process: polls that wait for milliseconds, and are counted."""
    from salus.client import link_direct as client
    from salus.server import link_direct as server

    server.DirectRoutes.__init__.__defaults__ = (0.005,)
    number = os.open(counter, os.O_RDWR | os.O_CREAT)
    os.ftruncate(number, 8)
    shared = mmap.mmap(number, 8)
    plain: Callable[..., object] = client.DirectCalls.poll

    def counted(calls: object, *words: object, **named: object) -> object:
        shared[:8] = (int.from_bytes(shared[:8]) + 1).to_bytes(8)
        return plain(calls, *words, **named)

    client.DirectCalls.poll = counted  # type: ignore[method-assign, assignment]


def polls(counter: Path) -> int:
    return int.from_bytes(counter.read_bytes()) if counter.exists() else 0


def state(trial: Trial, member: Path) -> tuple[float, int, float]:
    """Return a daemon's memory of its own in MiB, its open files, and its folder's size in MiB."""
    process = psutil.Process(trial.process_id(member))
    size = sum(path.stat().st_size for path in member.rglob("*") if path.is_file())
    return process.memory_full_info().uss / MEBIBYTE, process.num_fds(), size / MEBIBYTE


@pytest.mark.slow
def test_memory_open_files_and_disk_are_flat_over_a_simulated_day(tmp_path: Path) -> None:
    counters = {name: tmp_path / f"{name}.count" for name in ("coordinator", "site-1", "site-2")}

    def start(words: Sequence[str], log: Path) -> Daemon:
        return Forked(words, log, partial(quick, counters[log.parent.name]))

    empty(tmp_path / "t")
    trial = Trial(tmp_path / "t", ["One", "Two"], policy=POLICY, launcher=start)
    for number, site in enumerate(trial.sites, start=1):
        open_catalogue(site).add("toy", "medmnist", write_npz(site / "toy.npz", seed=number), SourceOptions())
    with trial:
        trial.start_all()
        members = [trial.coordinator, *trial.sites]
        early: dict[Path, tuple[float, int, float]] = {}
        for job in range(JOBS):
            assert trial.wait_for(trial.submit(job_text(rounds=1)))["status"] == "finished"
            for name in ("site-1", "site-2"):
                due = POLLS * (job + 1) // JOBS
                wait_until(lambda name=name, due=due: polls(counters[name]) >= due, f"{due} polls")  # type: ignore[misc]
            if job + 1 == JOBS // 3:
                early = {member: state(trial, member) for member in members}
        for member in members:
            (memory, files, disk), (memory_late, files_late, disk_late) = early[member], state(trial, member)
            print(member.name, early[member], state(trial, member), polls(counters[member.name]))
            assert memory_late - memory < 8, member.name  # eight jobs more; each keeps its events
            assert files_late - files <= 4, member.name
            assert disk_late - disk < 2, member.name
