"""A site at rest is small: what its daemon imports, and what it takes before, during and after thirty jobs."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.builders import job_text, write_npz
from tests.processes import ended

from salus.client.config import open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.common.events import read_events
from salus.simulations.trial import Trial

HEAVY = (
    "torch",
    "opacus",
    "monai",
    "tenseal",
    "scipy",
    "pandas",
    "sklearn",
    "pydicom",
    "sqlalchemy",
    "flwr",
    "fastapi",
)
LOOK = f"""
import sys
from salus.cli import app
import salus.client.commands.client, salus.client.daemon, salus.client.executors.slurm, salus.client.link, salus.common.lock
print([name for name in {HEAVY!r} if name in sys.modules])
"""
JOBS = 30
REST_MB = 100
POLICY = "allow_unprotected = true\nallow_without_noise = true\nchecks_per_hour = 1000\n"


def test_a_daemon_at_rest_imports_nothing_for_training() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def pss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


@pytest.mark.slow
def test_a_site_is_as_small_after_thirty_jobs_as_before(tmp_path: Path) -> None:
    trial = Trial(tmp_path, ["One", "Two"], policy=POLICY)
    for number, site in enumerate(trial.sites, start=1):
        open_catalogue(site).add(
            "toy", "medmnist", write_npz(site / "toy.npz", seed=number, images=60), SourceOptions()
        )
        with (site / "site.toml").open("a") as file:
            file.write("[executor]\nidle_minutes = 0.02\n")
    with trial:
        trial.start_all()
        daemon = psutil.Process(trial.process_id(trial.sites[0]))
        before, during, after, resident = [], [], [], []
        for number in range(JOBS):
            rest(daemon)
            (before if number == 0 else after).append(pss_mb(daemon.pid))
            resident.append(daemon.memory_info().rss / 2**20)  # with what it shares with others
            result = trial.wait_for(trial.submit(job_text()))
            assert result["status"] == "finished"
            during.append(sum(pss_mb(child.pid) for child in daemon.children(recursive=True)))
        rest(daemon)
        after.append(pss_mb(daemon.pid))
        descriptors = daemon.num_fds()
    trained = [event for event in read_events(trial.sites[0] / "events.jsonl") if event.kind == "trained"]
    assert len(trained) >= JOBS
    print(
        f"before {before[0]:.0f} MB, worker {max(during):.0f} MB, after {JOBS} jobs {after[-1]:.0f} MB, fds {descriptors}"
    )
    assert max(before + after) <= REST_MB
    assert after[-1] - after[0] < 5
    assert max(during) > REST_MB, "the work was done elsewhere"


def rest(daemon: psutil.Process) -> None:
    """Wait until there is no worker."""
    for child in daemon.children():
        assert ended(child.pid)
