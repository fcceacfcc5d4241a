"""Several jobs at once over real daemons, and a coordinator that comes back from its backup: the jobs learn the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.builders import job_text
from tests.cli import salus

from salus.common.events import read_events
from salus.simulations.trial import Trial


def masked(rounds: int) -> str:
    text = job_text(rounds=rounds, dataset="many", protection="masking", min_sites=3, training='optimizer = "sgd"')
    return text.replace("batch_size = 8", "batch_size = 4096")  # one batch: no order of images


def test_jobs_over_different_data_run_at_once_and_survive_a_killed_coordinator(federation: Trial) -> None:
    alone = federation.wait_for(federation.submit(masked(3)))
    first = federation.submit(job_text(rounds=500, dataset="toy"))
    federation.wait_for_round(first, 1)
    second = federation.submit(masked(3))
    third = federation.submit(job_text(rounds=1, dataset="toy"))
    rows = {row["job"]: row for row in federation.admin.get("/jobs")}
    assert rows[third]["place"] == 1
    assert rows[third]["reason"].startswith(f"waits for {first}")
    federation.wait_for_round(second, 1)
    federation.kill(federation.coordinator)
    federation.start(federation.coordinator)
    result = federation.wait_for(second)
    assert result["status"] == "finished"
    assert federation.admin.get(f"/jobs/{first}")["status"] == "running", "both ran at once"
    federation.admin.post(f"/jobs/{first}/cancel")
    assert federation.wait_for(third)["status"] == "finished"
    assert [record["sites"] for record in result["rounds"]] == [[1, 2, 3, 4, 5]] * 3
    happened = read_events(federation.coordinator / "events.jsonl")
    mine = [event for event in happened if event.fields.get("job") in (first, second)]
    left_out = [event for event in mine if event.kind == "left-out" and "answer" in str(event.fields["text"])]
    assert left_out == [], "nobody is left out because it works for the other job"
    assert {event.fields["job"] for event in mine if event.kind == "waiting-for-turn"} == {first, second}
    together, before = load_file(result["model"]), load_file(alone["model"])
    assert all(np.allclose(together[name], before[name], atol=1e-5) for name in before)


@pytest.mark.slow
def test_a_coordinator_that_is_lost_during_a_job_comes_back_from_its_backup(federation: Trial, tmp_path: Path) -> None:
    """The rehearsal: back up during a job, destroy, restore; the job resumes, and its transcript verifies."""
    alone = federation.wait_for(federation.submit(masked(6)))
    job = federation.submit(masked(6))
    federation.wait_for_round(job, 2)
    made = salus("server", "backup", federation.coordinator, tmp_path / "b")
    assert made.returncode == 0, made.stderr
    saved = json.loads((tmp_path / "b" / "backup.json").read_text())["jobs"][job]
    federation.wait_for_round(job, min(saved["rounds"] + 1, 6))
    federation.kill(federation.coordinator)
    shutil.rmtree(federation.coordinator)
    back = salus("server", "restore", federation.coordinator, tmp_path / "b")
    assert back.returncode == 0, back.stderr
    federation.start(federation.coordinator)
    result = federation.wait_for(job)
    assert result["status"] == "finished", result["reason"]
    assert [record["round"] for record in result["rounds"]] == [1, 2, 3, 4, 5, 6]
    happened = [
        event for event in read_events(federation.coordinator / "events.jsonl") if event.fields.get("job") == job
    ]
    if saved["status"] == "running" and saved["rounds"] < 6:
        assert any(event.kind == "resumed" and event.fields["round"] == saved["rounds"] for event in happened)
    assert not any("opened" in str(event.fields.get("text")) for event in happened if event.kind == "left-out")
    kit = federation.folder / "kits" / "site-1.kit"
    checked = salus("verify", federation.coordinator / "transcripts" / f"{job}.jsonl", "--kit", kit)
    assert checked.returncode == 0, checked.stderr
    together, before = load_file(result["model"]), load_file(alone["model"])
    assert all(np.allclose(together[name], before[name], atol=1e-5) for name in before)
