"""What `salus doctor --job` says at a site: would it refuse the job, does the job fit this machine, how long is a round.

It works on copies of catalogue and ledger, reserves nothing and reads no image.
"""

import contextlib
import math
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import torch

from salus.client.checking import verdict_on
from salus.client.config import LEDGER, SiteConfig
from salus.client.data.catalogue import Catalogue
from salus.client.executors.stopped import WORKING
from salus.client.ledger.store import Ledger
from salus.client.performance import Performance
from salus.client.policy import load_policy
from salus.client.private_training import PrivateTrainer
from salus.client.training import Trainer
from salus.common.batch import example_batch
from salus.common.clock import Clock
from salus.common.cost import check_cost, megabytes
from salus.common.doctor.findings import Finding, skipped
from salus.common.doctor.link import Line
from salus.common.doctor.load import bytes_of, seconds_of
from salus.common.doctor.machine import LOW_MEMORY_BYTES, available_memory
from salus.common.errors import Refused, SalusError
from salus.common.job import Job, load_job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.tasks.steps import given, with_noise
from salus.common.vectors import layout_of
from salus.privacy.dp.patients import grid
from salus.privacy.dp.plan import plan_of

LONGEST_S = 10.0  # of the trial steps
TRIES = 3


def job_checks(
    folder: Path,
    copies: Path,
    config: SiteConfig,
    clock: Clock,
    catalogue: Catalogue,
    path: Path,
    sites: int,
    line: Line | None,
) -> list[Finding]:
    """Return the findings about a job.

    Args:
        copies: a folder for copies, private and removed by the caller.
        catalogue: a copy of the site's.
        path: of the job file.
        sites, line: as in `doctor_data.data_checks`.
    """
    later = skipped("round", "The job cannot run here.")
    try:
        job = load_job(path)
        policy = load_policy(folder / "policy.toml")
        ledger = _copied_ledger(folder, copies, clock)
        verdict = verdict_on(job, policy, catalogue, ledger, sites or job.job.min_sites, "")
        cost = check_cost(job, config.performance.job_limit_bytes(), _too_large)
    except SalusError as problem:
        return [Finding("job", "failed", problem.problem, "job-invalid", problem.remedy), later]
    if verdict.problems:
        text = " ".join(problem.text for problem in verdict.problems[:5])
        values = {"problems": len(verdict.problems)}
        return [
            Finding("job", "failed", text, "refused", "See `salus job check` at the coordinator.", values=values),
            later,
        ]
    values = {"memory_bytes": cost.memory_bytes, "parameters": cost.parameters}
    free = available_memory()[0]
    if cost.memory_bytes > free - LOW_MEMORY_BYTES // 2:
        text = f"The job fits this site's data and rules, but needs about {megabytes(cost.memory_bytes)} MB of memory."
        found = Finding("job", "notice", text, "low", "Stop other programs before it runs.", values=values)
    else:
        text = f"The job fits this site's data, rules and budget; it needs about {megabytes(cost.memory_bytes)} MB of memory."
        found = Finding("job", "ok", text, values=values)
    return [found, _round(folder, config, catalogue, job, line)]


def _too_large(problem: str, remedy: str) -> Refused:
    return Refused(problem, remedy=f"{remedy} The site's limit is max_job_memory_mb in site.toml.")


def _copied_ledger(folder: Path, copies: Path, clock: Clock) -> Ledger:
    copy = copies / LEDGER
    if (folder / LEDGER).exists():
        os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        source = f"{(folder / LEDGER).resolve().as_uri()}?mode=ro"
        with (
            contextlib.closing(sqlite3.connect(source, uri=True)) as opened,
            contextlib.closing(sqlite3.connect(copy)) as written,
        ):
            opened.backup(written)
    return Ledger(copy, clock)


def _duration(seconds: float) -> str:
    """Return a time for people: minutes, or seconds below two minutes."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{max(1, round(seconds))} s"


def _round(folder: Path, config: SiteConfig, catalogue: Catalogue, job: Job, line: Line | None) -> Finding:
    """Return how long a round will take here: computing, by a few steps with random numbers, and sending."""
    if (folder / WORKING).exists():
        return Finding(
            "round", "skipped", "The site works on a request now, and is not disturbed by a trial.", "not-measured"
        )
    sending = seconds_of(job, line) if line is not None else None
    try:
        computing = compute_seconds(job, config.performance, catalogue) if job.statistics is None else 0.0
    except (SalusError, RuntimeError, MemoryError) as problem:
        text = f"A trial step failed ({type(problem).__name__})."
        return Finding("round", "notice", text, "not-measured", "Try `salus simulate` with this job on this machine.")
    down, up = bytes_of(job)
    total = computing + (sending or 0.0)
    values = {
        "minutes": round(total / 60, 4),
        "compute_s": round(computing, 4),
        "transfer_s": round(sending, 4) if sending is not None else None,
        "down_bytes": down,
        "up_bytes": up,
    }
    parts = [f"{computing:.0f} s of training" if job.statistics is None else "reading the data"]
    parts.append(f"{sending:.0f} s of transfers" if sending is not None else "transfers, which were not measured")
    text = (
        f"A round will take about {_duration(total)} here: {' and '.join(parts)}; reading images for the first time is "
        "not in it."
    )
    return Finding("round", "ok", text, values=values)


def compute_seconds(job: Job, performance: Performance, catalogue: Catalogue) -> float:
    """Return the seconds of one round's training on this machine, from a few steps with random numbers.

    Raises:
        SalusError: the network cannot be built, or cannot be trained under noise.
    """
    data = job.task.dataset
    images = sum(1 for image in catalogue.images(data) if image.split != "test")
    patients = max(1, len(catalogue.patients(data)))
    task, model = make_task(job.task), build_model(job.task, job.job.seed)
    trainer = Trainer(model, layout_of(model), task, job, performance)
    plan = plan_of(job)
    if plan is not None:
        private = PrivateTrainer(trainer, plan, os.urandom)
        rows = private.rows_for(1)
        some = with_noise(example_batch(task.spec, rows), task.spec, torch.Generator().manual_seed(0))
        batch, layout = grid([some.rows(slice(n, n + 1)) for n in range(rows)], rows, 1)
        batch, layout = batch.to(trainer.device), layout.to(trainer.device)
        each = _seconds(lambda: private.clipped(batch, layout), trainer.device)
        sampled = plan.sampling_rate * patients * min(job.privacy.images_per_patient, max(1, images // patients))
        return each * math.ceil(sampled / rows) * plan.steps
    optimizers = [torch.optim.SGD(model.parameters(), 1e-3) for _ in task.steps]
    size = min(job.training.batch_size, max(1, images))
    noise = torch.Generator().manual_seed(0)
    some = example_batch(task.spec, size).to(trainer.device)

    def step() -> None:
        for part, optimizer in zip(task.steps, optimizers, strict=True):
            trainer.step(part, optimizer, given(task.spec, part, some, noise))

    return _seconds(step, trainer.device) * math.ceil(images / size) * job.training.epochs


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    """Return the shortest time of a few calls, after one that does not count."""
    best, begun = math.inf, time.monotonic()
    for attempt in range(TRIES + 1):
        before = time.monotonic()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if attempt:
            best = min(best, time.monotonic() - before)
        if time.monotonic() - begun > LONGEST_S:
            break
    return best if math.isfinite(best) else time.monotonic() - begun
