"""Memory of a site's process over many rounds; it must stay constant."""

import tempfile
import time
from pathlib import Path
from typing import Any

from salus.client.config import open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.simulations.benchmarks.environment import cpu_seconds, describe_machine, peak_rss_mb, rss_mb, versions
from salus.simulations.demo import POLICY, demo_job
from salus.simulations.phantoms import DEMO_HOSPITALS, write_hospital
from salus.simulations.trial import Trial, empty

ROUNDS = 30
SITES = 5  # the fewest that a masked sum allows
SETTLED = 5  # rounds after which every buffer has been allocated once


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return the resident memory of one site's process for work after each round of a real federation."""
    rounds = 8 if quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="salus-bench-") as temporary:
        folder = Path(temporary) / "trial"
        empty(folder)
        trial = Trial(folder, [hospital.name for hospital in DEMO_HOSPITALS[:SITES]], policy=POLICY)
        for number, site in enumerate(trial.sites):
            write_hospital(site / "dicom", DEMO_HOSPITALS[number], seed=number)
            open_catalogue(site).add("phantoms", "dicom", site / "dicom", SourceOptions())
        with trial:
            trial.start_all()
            job_id = trial.submit(demo_job(rounds)[1])
            sizes = _sizes(trial, job_id, rounds)
            process = trial.worker_id(trial.sites[0])
            values = {
                "ours_cpu_s": round(cpu_seconds([process]), 2),
                "ours_peak_mb": round(peak_rss_mb(process), 1),
            }
    settled = sizes[min(SETTLED, len(sizes) - 1)]
    return {
        "benchmark": "memory",
        **values,
        "peer_cpu_s": None,
        "floor_cpu_s": None,
        "rounds": rounds,
        "ours_rss_mb_by_round": [round(size, 1) for size in sizes],
        "growth_after_settling_mb": round(sizes[-1] - settled, 1),
        "machine": describe_machine(),
        "versions": versions("flwr", "torch"),
    }


def _sizes(trial: Trial, job_id: str, rounds: int) -> list[float]:
    sizes: list[float] = []
    while trial.admin.get(f"/jobs/{job_id}")["status"] in ("waiting", "running"):
        done = len(trial.admin.get(f"/jobs/{job_id}")["rounds"])
        while len(sizes) < min(done, rounds):
            sizes.append(rss_mb(trial.worker_id(trial.sites[0])))
        time.sleep(0.05)
    return sizes
