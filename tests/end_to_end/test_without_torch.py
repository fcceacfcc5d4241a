"""A coordinator in whose process torch cannot be imported runs a masked job with real sites, as its image does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.builders import job_text
from tests.cli import salus

from salus.common.job import parse_job
from salus.common.models import build_model
from salus.common.vectors import layout_of
from salus.simulations.trial import Trial, launch

WITHOUT_TORCH = Path(__file__).resolve().parents[1] / "without_torch"
JOB = job_text(rounds=2, model="cnn", protection="masking", dataset="large")


def bare(*words: object) -> "subprocess.CompletedProcess[str]":
    """Run a command where torch cannot be imported."""
    return subprocess.run(
        [sys.executable, "-m", "salus.cli", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(WITHOUT_TORCH), "COLUMNS": "300", "NO_COLOR": "1"},
    )


@pytest.fixture
def coordinator(federation: Trial, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    """The federation with a coordinator that has no torch."""
    usual = federation._launch
    federation.kill(federation.coordinator)
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", str(WITHOUT_TORCH))
        federation._launch = launch
        federation.start(federation.coordinator)
        federation.wait_online(5)
    yield federation
    federation.kill(federation.coordinator)
    federation._launch = usual
    federation.start(federation.coordinator)


def test_a_coordinator_without_torch_runs_a_masked_job(coordinator: Trial, tmp_path: Path) -> None:
    job, outline = tmp_path / "job.toml", tmp_path / "job.outline"
    job.write_text(JOB)
    refused = bare("job", "submit", coordinator.coordinator, job)
    assert refused.returncode != 0
    assert "needs the outline" in refused.stderr
    made = salus("job", "outline", job, "--output", outline)
    assert made.returncode == 0, made.stderr
    sent = bare("job", "submit", coordinator.coordinator, job, "--outline", outline)
    assert sent.returncode == 0, sent.stderr
    result = coordinator.wait_for(sent.stdout.split()[1].rstrip("."))
    assert result["status"] == "finished", result["reason"]
    assert all(record["sites"] == [1, 2, 3, 4, 5] for record in result["rounds"])
    assert 0 <= result["rounds"][-1]["metrics_before"]["auc"] <= 1
    assert result["report"] is not None
    pid = coordinator.process_id(coordinator.coordinator)
    assert "torch" not in Path(f"/proc/{pid}/maps").read_text()  # no part of torch was loaded
    parsed = parse_job(JOB)
    network = layout_of(build_model(parsed.task, parsed.job.seed))
    model = load_file(result["model"])
    assert {spec.name for spec in network.specs} <= set(model)
    assert all(np.isfinite(values).all() for values in model.values())
