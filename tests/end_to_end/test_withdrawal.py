"""A patient withdraws while daemons train: another process writes the catalogue, and no step after it uses the patient."""

import json
import os
import signal
from pathlib import Path

from tests.builders import job_text, write_npz
from tests.cli import salus

from salus.client.config import open_catalogue, open_ledger
from salus.client.data.sources.settings import SourceOptions
from salus.common.clock import SystemClock
from salus.common.events import Event, read_events
from salus.simulations.trial import Trial

NAME = "leaving"
NOISE = 'noise = "local"\nepsilon = 8.0\nsampling_rate = 0.5\npatients_per_site = 20\nsteps_per_round = 2\nevaluation_share = 0.3'
IMAGES = 24


def register(federation: Trial) -> None:
    for number, site in enumerate(federation.sites, start=1):
        if NAME not in open_catalogue(site).names():
            data = write_npz(site / f"{NAME}.npz", seed=50 + number, images=IMAGES)
            open_catalogue(site).add(NAME, "medmnist", data, SourceOptions())


def trained(site: Path, job: str) -> list[Event]:
    return [e for e in read_events(site / "events.jsonl") if e.kind == "trained" and e.fields["job"] == job]


def test_a_patient_withdraws_in_the_middle_of_a_job_with_noise(federation: Trial) -> None:
    register(federation)
    site = federation.sites[1]
    patient = min(image.patient for image in open_catalogue(site).images(NAME) if image.split == "train")
    job = federation.submit(job_text(rounds=5, protection="masking", dataset=NAME, privacy=NOISE))
    federation.wait_for_round(job, 1)
    other = federation.process_id(federation.sites[2])
    os.kill(other, signal.SIGSTOP)  # so that the job waits in the middle of a round, however fast it is
    try:
        done = salus("dataset", "withdraw", site, "--pseudonym", patient, "--yes", "--json")
        rounds_before = len(trained(site, job))
    finally:
        os.kill(other, signal.SIGCONT)
    assert done.returncode == 0, done.stderr
    (paper,) = json.loads(done.stdout)["papers"]
    result = federation.wait_for(job)
    assert result["status"] == "finished"
    assert all(record["sites"] == [1, 2, 3, 4, 5] for record in result["rounds"]), "nobody was missing or repeated"
    events = trained(site, job)
    assert events[0].fields["patients"] == IMAGES
    # The round in which it happened may have begun with the patient; those after it begin without.
    assert len(events) > rounds_before + 1, "the job went on after the withdrawal"
    assert {event.fields["patients"] for event in events[rounds_before + 1 :]} == {IMAGES - 1}
    (line,) = [line for line in paper["jobs"] if line["job"].startswith(f"{job}/")]
    assert (line["use"], line["first_round"]) == ("possible", 1)
    assert 0 < line["epsilon"] < 8.0
    spoken = (federation.coordinator / "events.jsonl").read_text()
    spoken += "".join((place / "events.jsonl").read_text() for place in federation.sites if place != site)
    assert "withdr" not in spoken
    open_ledger(site, SystemClock()).verify()
    assert json.loads(salus("dataset", "withdrawals", site, "--json").stdout) == {"papers": [paper], "not_finished": []}
    assert patient not in open_catalogue(site).patients(NAME)
