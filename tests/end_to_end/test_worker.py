"""A site's process for work is killed, or its job is stopped, in the middle of a real job; its daemon goes on."""

import os
import signal
from pathlib import Path

import psutil
import pytest
from tests.builders import job_text
from tests.cli import salus
from tests.processes import wait_until

from salus.common.events import read_events
from salus.simulations.trial import Trial


def kinds(site: Path) -> list[str]:
    return [event.kind for event in read_events(site / "events.jsonl")]


@pytest.mark.parametrize("protection", ["none", "masking"])
def test_a_worker_that_is_killed_costs_an_attempt_and_not_the_job(federation: Trial, protection: str) -> None:
    dataset = {"none": "toy", "masking": "worker"}[protection]
    job = federation.submit(
        job_text(rounds=4, model="cnn", training="local_epochs = 5", protection=protection, dataset=dataset)
    )
    site = federation.sites[1]
    daemon, before = federation.process_id(site), kinds(site).count("worker-ended")
    federation.wait_for_round(job, 1)
    wait_until(lambda: federation.worker_id(site) != daemon, "its worker")
    os.kill(federation.worker_id(site), signal.SIGKILL)
    result = federation.wait_for(job)
    assert result["status"] == "finished"
    assert result["rounds"][-1]["sites"] == [1, 2, 3, 4, 5]
    assert federation.process_id(site) == daemon
    assert psutil.pid_exists(daemon)
    assert kinds(site).count("worker-ended") <= before + 1  # none if it was killed between two requests


def test_an_operator_stops_a_job_and_the_others_finish_it(federation: Trial) -> None:
    job = federation.submit(job_text(rounds=4, model="cnn", training="local_epochs = 5"))
    federation.wait_for_round(job, 1)
    site = federation.sites[3]
    assert salus("client", "stop-job", site, job).returncode == 0
    assert f"Job {job} is stopped at this site." in salus("client", "status", site).stdout
    result = federation.wait_for(job)
    assert result["status"] == "finished"
    assert 4 not in result["rounds"][-1]["sites"]
    events = federation.admin.get(f"/jobs/{job}/events")
    assert any("operator of this site has stopped this job" in str(event["fields"].get("text")) for event in events)
    assert salus("client", "stop-job", site, job, "--allow").returncode == 0
    assert "is stopped" not in salus("client", "status", site).stdout
    assert salus("client", "stop-job", site, job, "--allow").returncode == 11
    assert federation.wait_for(federation.submit(job_text(rounds=1)))["rounds"][-1]["sites"] == [1, 2, 3, 4, 5]


def test_a_site_that_works_for_nothing_must_be_told_which_job(federation: Trial) -> None:
    done = salus("client", "stop-job", federation.sites[0])
    assert done.returncode == 11
    assert "Name the job" in done.stderr
    assert salus("client", "stop-job", federation.sites[0], "../x").returncode == 11
