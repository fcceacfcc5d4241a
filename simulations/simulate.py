"""One job on one machine: virtual sites with the same rounds and site code, and a test split that no site holds."""

import dataclasses
import os
import resource
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from flwr.app import Context, RecordDict

from salus.client.data.sources.settings import SourceOptions
from salus.client.performance import Performance
from salus.common.clock import SystemClock
from salus.common.estimates import Metric, to_plain
from salus.common.events import Event, EventLog
from salus.common.job import Job, seal_job
from salus.common.start.applying import first_network
from salus.common.start.store import STARTS, CoordinatorStarts
from salus.common.start.weights import Weights
from salus.common.subgroups.results import AttributeResult, results_to_plain
from salus.privacy.records.card import PrivacyCard
from salus.server.app import make_server_app
from salus.server.attempts import Attempts
from salus.server.card import card_of_job
from salus.server.checkpoints import Checkpoints
from salus.server.checks import check_job
from salus.server.federation import Federation
from salus.server.measuring import keep_model
from salus.server.quality import evaluation_in, subgroups_in
from salus.server.rounds import run_of
from salus.server.statistics_report import transforms_section
from salus.simulations.engine import RUN_ID, PoolGrid
from salus.simulations.members import begin_transcript, found_consortium
from salus.simulations.testing import SplitEvaluator, score, split_evaluator
from salus.simulations.virtual import (
    OPEN_POLICY,
    PATIENCE_S,
    WorkerSetup,
    app_factory,
    make_hospitals,
    virtual_keys,
)

MEMORY_SAMPLE_S = 0.25


@dataclass(frozen=True)
class SimulationResult:
    """The result of a simulation.

    Args:
        metrics: exact metrics of the final model on the test split; empty without a test split.
        sites: the same for the test patients of each hospital, if the patients were divided by hospital.
        evaluation: metrics of the final model on the sites' validation patients, as the coordinator of a real federation learns
            them: with standard errors under differential privacy.
        subgroups: the same for each subgroup of patients; empty for a job without subgroups.
        rounds: one record per round.
        privacy: what each virtual site's patients have spent.
        statistics: the results of a statistics job.
        transforms: the steps of a training job that uses these results.
        signed_by: public key of the virtual coordinator, hex, which has signed a model from sums.
        peak_rss_mb: largest resident memory of all its processes together, sampled every quarter second.
    """

    metrics: dict[str, float]
    sites: dict[str, dict[str, float]]
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
    signed_by: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the JSON object that ``--json`` writes."""
        return {
            "metrics": self.metrics,
            **({"sites": self.sites} if self.sites else {}),
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
    start: Weights | None = None,
) -> SimulationResult:
    """Run `job` over `sites` virtual hospitals made from `data` and return the result; `start` has its first weights.

    Raises:
        SalusError: anything that would also stop a real federation.
    """
    started = time.monotonic()
    _check(job, sites, start, folder)
    hospitals = make_hospitals(job, data, options, sites=sites, partition=partition, seed=seed, folder=folder)
    secret = os.urandom(32)
    keys = virtual_keys(secret, sites)
    coordinator, roster = found_consortium(folder / "coordinator", keys, SystemClock())
    signed = seal_job(job, coordinator)
    checkpoints = Checkpoints(folder / "coordinator")
    job_id = checkpoints.submit(signed, job.job.name)
    evaluated: list[Event] = []
    events = EventLog(folder / "events.jsonl", listeners=(listener, evaluated.append))
    setup = WorkerSetup(folder, secret, sites, coordinator.public_key, OPEN_POLICY, performance)
    with PoolGrid(app_factory(setup), hospitals.site_ids(), workers) as grid, _PeakMemory(grid.process_ids()) as memory:
        evaluate = split_evaluator(job, folder, performance, start) if job.statistics is None else None

        def work(federation: Federation) -> None:
            transcript = begin_transcript(folder / "transcripts" / f"{job_id}.jsonl", roster)
            attempts = Attempts(job, job_id, signed, federation, checkpoints, events, keys, transcript, start=start)
            run_of(dataclasses.replace(attempts, patience_s=PATIENCE_S), evaluate).run()
            keep_model(attempts, coordinator)

        # A virtual site's node id is the site id, so sites need not be asked for it: on a busy machine the answer would be late.
        nodes = {site: site for site in hospitals.site_ids()}
        make_server_app(work, lambda: nodes)(grid, Context(RUN_ID, 1, {}, RecordDict(), {}))
    checkpoints.set_status(job_id, "finished")
    rounds = checkpoints.records(job_id)
    last = rounds[-1] if rounds else {}
    found = last.get("result", {})
    assert isinstance(found, dict)  # Safe because the run wrote it.
    metrics, by_site = _on_the_test_split(job, last, evaluate, folder)
    return SimulationResult(
        metrics=metrics,
        sites=by_site,
        evaluation=evaluation_in(evaluated),
        subgroups=subgroups_in(evaluated),
        rounds=rounds,
        seconds=time.monotonic() - started,
        peak_rss_mb=memory.peak_mb,
        model=_path_of(job, job_id, checkpoints),
        quarantined=hospitals.quarantined,
        statistics=found,
        transforms=transforms_section(job, found) if found else "",
        signed_by=coordinator.public_key.hex(),
        privacy=card_of_job(
            job, folder / "transcripts" / f"{job_id}.jsonl", keys, {site: f"site-{site}" for site in keys}
        ),
    )


def _check(job: Job, sites: int, start: Weights | None, folder: Path) -> None:
    """Refuse a job that cannot run, or that its start does not fit; keep its start, as a coordinator does."""
    check_job(job, sites)
    if job.statistics is None:
        first_network(job, start)
    if job.start is not None and start is not None:
        CoordinatorStarts(folder / "coordinator" / STARTS).put(job.start, start)


def _path_of(job: Job, job_id: str, checkpoints: Checkpoints) -> Path:
    trained = job.statistics is None
    return checkpoints.model_path(job_id, job.job.rounds) if trained else checkpoints.sums_model_path(job_id)


def _on_the_test_split(
    job: Job, last: Mapping[str, object], evaluate: SplitEvaluator | None, folder: Path
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the metrics of the final model, whole and by hospital, from the last round's record or by applying it."""
    if job.statistics is not None:
        model = last.get("model", {})
        return score(job, model if isinstance(model, dict) else {}, folder)
    found = last.get("metrics", {})
    metrics = {str(k): float(v) for k, v in found.items()} if isinstance(found, dict) else {}
    return metrics, evaluate.sites if evaluate is not None else {}


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
