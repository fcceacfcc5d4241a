"""A sample job made tiny, run by real rounds and sites in this process.

Each module in `tests/simulations/sample_jobs` has ``JOBS``: for each job file, a function that writes tiny data to a folder and
returns a `Tiny`. `tests/simulations/test_sample_jobs` runs them all.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from salus.client.data.sources.settings import SourceOptions
from salus.client.ledger.store import Ledger
from salus.client.performance import Performance
from salus.client.site import Site
from salus.common.clock import SystemClock
from salus.common.events import EventLog
from salus.common.identity import Identity
from salus.common.job import Job, parse_job, seal_job
from salus.common.start.weights import Weights
from salus.privacy.protocol.store import MemoryStore
from salus.server.attempts import Attempts
from salus.server.checkpoints import Checkpoints
from salus.server.checks import check_job
from salus.server.rounds import run_of
from salus.simulations.auditing.world import InOneProcess
from salus.simulations.testing import split_evaluator
from salus.simulations.virtual import OPEN_POLICY, make_hospitals, open_catalogue, virtual_identity, virtual_keys

JOBS = Path(__file__).resolve().parents[1] / "simulations" / "jobs"
CPU = Performance(device="cpu", threads=1)


@dataclass(frozen=True)
class Tiny:
    """Data and changes that make one round of a sample job take about a second.

    Args:
        data: what was written.
        change: values of the job file by dotted key, such as ``{"task.shape": [8, 8]}``; None removes a key.
        start: the weights with which the job starts.
        metric: a name that the last round must have under ``metrics``; empty for a job without a test split.
    """

    data: Path
    sites: int = 5
    partition: str = "iid"
    options: SourceOptions = field(default_factory=SourceOptions)
    change: Mapping[str, Any] = field(default_factory=dict)
    metric: str = ""
    start: Weights | None = None


Writer = Callable[[Path], Tiny]


def tiny_job(name: str, tiny: Tiny) -> Job:
    """Return a sample job with one round and the changes of `tiny`."""
    return parse_job(tiny_text(name, tiny))


def tiny_text(name: str, tiny: Tiny) -> str:
    """Return the text of that job."""
    values = tomllib.loads((JOBS / name).read_text(encoding="utf-8"))
    changes: dict[str, Any] = {"job.min_sites": min(tiny.sites, values["job"].get("min_sites", 2))}
    if "statistics" not in values:
        changes["job.rounds"] = 1
    for key, value in {**changes, **tiny.change}.items():
        *parents, last = key.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
        if value is None:
            section.pop(last, None)
        else:
            section[last] = value
    return tomli_w.dumps(values)


def run_tiny(job: Job, tiny: Tiny, folder: Path) -> dict[str, Any]:
    """Run a job and return the record of its last round."""
    check_job(job, tiny.sites)
    make_hospitals(job, tiny.data, tiny.options, sites=tiny.sites, partition=tiny.partition, seed=0, folder=folder)
    coordinator, secret = Identity.generate(), bytes(32)
    keys = virtual_keys(secret, tiny.sites)
    sites = {number: _site(number, folder, secret, keys, coordinator) for number in keys}
    signed = seal_job(job, coordinator)
    checkpoints = Checkpoints(folder / "coordinator")
    job_id = checkpoints.submit(signed, job.job.name)
    events = EventLog(folder / "events.jsonl")
    evaluate = split_evaluator(job, folder, CPU, tiny.start) if job.statistics is None else None
    attempts = Attempts(
        job, job_id, signed, InOneProcess(sites), checkpoints, events, keys, start=tiny.start, patience_s=0.0
    )
    run_of(attempts, evaluate).run()
    return dict(checkpoints.records(job_id)[-1])


def _site(number: int, folder: Path, secret: bytes, keys: Mapping[int, bytes], coordinator: Identity) -> Site:
    place = folder / f"site-{number}"
    return Site(
        site_id=number, identity=virtual_identity(secret, number), keys=dict(keys), store=MemoryStore(),
        coordinator_key=coordinator.public_key, catalogue=open_catalogue(folder, number), policy=lambda: OPEN_POLICY,
        performance=CPU, events=EventLog(place / "events.jsonl"), ledger=Ledger(place / "ledger.sqlite", SystemClock()),
        states=place / "states", starts=place / "starts",
    )  # fmt: skip
