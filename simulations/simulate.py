"""One job on one machine: virtual sites with the same rounds and site code, and a test split that no site holds."""

import os
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from flwr.app import Context, RecordDict

from salus.client.data.preparing import Item, Preparer, target_for
from salus.client.data.several import items_of
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.tensors import TensorSet
from salus.client.performance import Performance
from salus.client.training import Trainer
from salus.common.estimates import Metric, to_plain
from salus.common.events import Event, EventLog
from salus.common.identity import Identity
from salus.common.job import Job, seal_job
from salus.common.models import build_model
from salus.common.subgroups.results import AttributeResult, results_to_plain
from salus.common.tasks import make_task
from salus.common.vectors import FloatVector, layout_of
from salus.common.vocabulary import OTHER
from salus.server.app import make_server_app
from salus.server.attempts import Attempts
from salus.server.card import PrivacyCard, card_of_job
from salus.server.checkpoints import Checkpoints
from salus.server.checks import check_job
from salus.server.federation import Federation
from salus.server.measuring import keep_model
from salus.server.quality import evaluation_in, subgroups_in
from salus.server.rounds import Evaluator, run_of
from salus.server.statistics_report import transforms_section
from salus.server.transcripts import Transcript
from salus.simulations.engine import RUN_ID, PoolGrid
from salus.simulations.virtual import (
    CENTRAL,
    OPEN_POLICY,
    WorkerSetup,
    app_factory,
    catalogue_path,
    make_hospitals,
    open_catalogue,
    virtual_keys,
)

MEMORY_SAMPLE_S = 0.25


@dataclass(frozen=True)
class SimulationResult:
    """The result of a simulation.

    Args:
        metrics: exact metrics of the final model on the test split; empty without a test split.
        evaluation: metrics of the final model on the sites' validation patients, as the coordinator of a real federation learns
            them: with standard errors under differential privacy.
        subgroups: the same for each subgroup of patients; empty for a job without subgroups.
        rounds: one record per round.
        privacy: what each virtual site's patients have spent.
        statistics: the results of a statistics job.
        transforms: the steps of a training job that uses these results.
        peak_rss_mb: largest resident memory of all its processes together, sampled every quarter second.
    """

    metrics: dict[str, float]
    evaluation: dict[str, Metric]
    subgroups: tuple[AttributeResult, ...]
    rounds: list[dict[str, object]]
    seconds: float
    peak_rss_mb: float
    model: Path
    quarantined: dict[str, int]
    privacy: PrivacyCard
    statistics: dict[str, object]
    transforms: str

    def to_json(self) -> dict[str, object]:
        """Return the JSON object that ``--json`` writes."""
        return {
            "metrics": self.metrics,
            "evaluation": to_plain(self.evaluation),
            **({"subgroups": results_to_plain(self.subgroups)} if self.subgroups else {}),
            "rounds": self.rounds,
            "seconds": round(self.seconds, 3),
            "peak_rss_mb": round(self.peak_rss_mb, 1),
            "model": str(self.model),
            "quarantined": self.quarantined,
            "privacy": self.privacy.model_dump(mode="json"),
            **({"statistics": self.statistics, "transforms": self.transforms} if self.statistics else {}),
        }


def simulate(
    job: Job,
    data: Path,
    *,
    sites: int,
    partition: str,
    seed: int,
    folder: Path,
    options: SourceOptions,
    performance: Performance,
    workers: int = 0,
    listener: Callable[[Event], None] = lambda event: None,
) -> SimulationResult:
    """Run `job` over `sites` virtual hospitals made from `data` and return the result.

    Raises:
        SalusError: anything that would also stop a real federation.
    """
    started = time.monotonic()
    check_job(job, sites)
    hospitals = make_hospitals(job, data, options, sites=sites, partition=partition, seed=seed, folder=folder)
    coordinator = Identity.generate()
    signed = seal_job(job, coordinator)
    checkpoints = Checkpoints(folder / "coordinator")
    job_id = checkpoints.submit(signed, job.job.name)
    evaluated: list[Event] = []
    events = EventLog(folder / "events.jsonl", listeners=(listener, evaluated.append))
    secret = os.urandom(32)
    keys = virtual_keys(secret, sites)
    setup = WorkerSetup(folder, secret, sites, coordinator.public_key, OPEN_POLICY, performance)
    with PoolGrid(app_factory(setup), hospitals.site_ids(), workers) as grid, _PeakMemory(grid.process_ids()) as memory:
        evaluate = test_evaluator(job, folder, performance) if job.statistics is None else None

        def work(federation: Federation) -> None:
            transcript = Transcript(folder / "transcripts" / f"{job_id}.jsonl")
            attempts = Attempts(job, job_id, signed, federation, checkpoints, events, keys, transcript)
            run_of(attempts, evaluate).run()
            keep_model(attempts, coordinator)

        # A virtual site's node id is the site id, so sites need not be asked for it: on a busy machine the answer would be late.
        nodes = {site: site for site in hospitals.site_ids()}
        make_server_app(work, lambda: nodes)(grid, Context(RUN_ID, 1, {}, RecordDict(), {}))
    checkpoints.set_status(job_id, "finished")
    rounds = checkpoints.records(job_id)
    last = rounds[-1].get("metrics", {}) if rounds else {}
    found = rounds[-1].get("result", {}) if rounds else {}
    assert isinstance(found, dict)  # Safe because the run wrote it.
    return SimulationResult(
        metrics={str(k): float(v) for k, v in last.items()} if isinstance(last, dict) else {},
        evaluation=evaluation_in(evaluated),
        subgroups=subgroups_in(evaluated),
        rounds=rounds,
        seconds=time.monotonic() - started,
        peak_rss_mb=memory.peak_mb,
        model=checkpoints.model_path(job_id, job.job.rounds)
        if job.statistics is None
        else checkpoints.sums_model_path(job_id),
        quarantined=hospitals.quarantined,
        statistics=found,
        transforms=transforms_section(job, found) if found else "",
        privacy=card_of_job(
            job, folder / "transcripts" / f"{job_id}.jsonl", keys, {site: f"site-{site}" for site in keys}
        ),
    )


def test_evaluator(job: Job, folder: Path, performance: Performance) -> Evaluator | None:
    """Return a function that evaluates a model on the test split, or None without a test split."""
    if not catalogue_path(folder, CENTRAL).exists():
        return None
    catalogue = open_catalogue(folder, CENTRAL)
    task = make_task(job.task)
    rows = zip(catalogue.images(job.task.dataset), catalogue.facts(job.task.dataset), strict=True)
    items = [
        Item(image, target, str(facts.info.get("vendor", OTHER)))
        for image, facts in rows
        if (target := target_for(task, image.label)) is not None
    ]
    if task.chain.fitted:  # what it does to an image is known only at the image's own site
        return None
    preparer = Preparer(catalogue.source(job.task.dataset), task)
    data = TensorSet(items_of(task, items)[0], preparer, performance.cache_mb * 2**20)
    with torch.random.fork_rng(devices=[]):
        model = build_model(job.task, job.job.seed)
    trainer = Trainer(model, layout_of(model), task, job, performance)

    def evaluate(parameters: FloatVector) -> dict[str, float]:
        return task.metrics(trainer.evaluate(parameters, data))

    return evaluate


class _PeakMemory:
    """Samples the resident memory of this process and its workers."""

    def __init__(self, workers: list[int]) -> None:
        self._processes = [psutil.Process(), *(psutil.Process(pid) for pid in workers)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def _watch(self) -> None:
        while not self._stop.wait(MEMORY_SAMPLE_S):
            total = 0
            for process in self._processes:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak_mb = max(self.peak_mb, total / 2**20)

    def __enter__(self) -> "_PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
