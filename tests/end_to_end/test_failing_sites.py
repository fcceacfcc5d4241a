"""A site that fails does not end a job: over real daemons, the job waits for it or goes on without it, and says so."""

import os
import signal

import pytest
from tests.builders import job_text

from salus.common.errors import SalusError
from salus.simulations.trial import Trial


def events_of(federation: Trial, job: str, kind: str) -> list[dict[str, object]]:
    return [event["fields"] for event in federation.admin.get(f"/jobs/{job}/events") if event["kind"] == kind]


def wait_for(federation: Trial, job: str, text: str) -> None:
    def told() -> bool | None:
        return any(text in str(fields.get("text")) for fields in events_of(federation, job, "waiting")) or None

    federation._wait(told, f"an event with {text!r}", 120)


@pytest.mark.slow
def test_a_sum_without_noise_waits_for_the_site_that_left_and_names_it(federation: Trial) -> None:
    job = federation.submit(job_text(rounds=30, dataset="failing", protection="masking", min_sites=5))
    federation.wait_for_round(job, 1)
    federation.stop(federation.sites[3])
    wait_for(federation, job, "site 4: offline Sums without noise over this data set are always over the same sites.")
    federation.start(federation.sites[3])
    result = federation.wait_for(job)
    assert result["status"] == "finished"
    assert {tuple(record["sites"]) for record in result["rounds"]} == {(1, 2, 3, 4, 5)}


@pytest.mark.slow
def test_a_site_that_hangs_is_left_out_after_the_time_out_and_the_job_goes_on(federation: Trial) -> None:
    """Its process is stopped, so it sends neither an answer nor progress."""
    job = federation.submit(job_text(rounds=3, round_timeout_s=5.0, training="local_epochs = 3"))
    federation.wait_for_round(job, 1)
    hung = federation.process_id(federation.sites[1])
    os.kill(hung, signal.SIGSTOP)
    try:
        result = federation.wait_for(job)
    finally:
        os.kill(hung, signal.SIGCONT)
    assert result["status"] == "finished"
    assert result["rounds"][-1]["sites"] == [1, 3, 4, 5]
    assert any(fields["site"] == 2 for fields in events_of(federation, job, "left-out"))


def test_a_canary_over_daemons_names_what_would_stop_a_job_and_leaves_no_trace(federation: Trial) -> None:
    text = job_text(rounds=2, dataset="large", protection="masking", min_sites=5)
    assert federation.admin.post("/canary", text)["possible"]
    (federation.sites[2] / "policy.toml").write_text("")
    before = [row["job"] for row in federation.admin.get("/jobs")]
    found = federation.admin.post("/canary", text)
    assert not found["possible"]
    assert "allow_without_noise" in found["problems"]["3"]
    assert [row["job"] for row in federation.admin.get("/jobs")] == before
    assert not list((federation.coordinator / "transcripts").glob("canary-*"))
    try:
        federation.admin.post("/jobs", text)
    except SalusError:
        return  # the check of a submission says the same
    raise AssertionError("the job was accepted")
