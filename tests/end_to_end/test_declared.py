"""One wrong word in a job with noise: refused at submit with both spellings, and at the sites if it is queued anyway."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.builders import job_text
from tests.cli import salus
from tests.processes import wait_until

from salus.client.config import open_catalogue
from salus.client.data.records import ImageRecord
from salus.client.data.sources.settings import SourceOptions
from salus.client.ledger.store import Ledger
from salus.common.clock import SystemClock
from salus.common.events import read_events
from salus.simulations.trial import Trial

NOISE = 'noise = "local"\nepsilon = 2.0\nsampling_rate = 0.5\npatients_per_site = 16'
NAMED = {"0": "healthy", "1": "pneumonia"}
IMAGES = job_text(min_sites=3, protection="masking", privacy=NOISE).replace('"toy"', '"chest-xray"')
IMAGES = IMAGES.replace('"no", "yes"', '"healthy", "pneumonia"')
TABLE = """
[job]
name = "heart"
rounds = 2
min_sites = 3
[task]
kind = "tabular"
model = "logistic"
dataset = "heart"
classes = ["0", "1"]
[[task.columns]]
name = "chol"
unit = "mg/dl"
[privacy]
noise = "local"
epsilon = 2.0
sampling_rate = 0.5
patients_per_site = 16
"""


@pytest.fixture(scope="module")
def hospitals(started: Trial) -> Trial:
    """Five hospitals with images labelled by name, and a table of which the units are declared."""
    for site in started.sites:
        catalogue = open_catalogue(site)
        found = catalogue.source("toy").scan()
        records = [replace(r, label=NAMED[r.label]) for r in found if isinstance(r, ImageRecord)]
        catalogue.add_records("chest-xray", "medmnist", site / "toy.npz", SourceOptions(), records)
        (site / "heart.csv").write_text("chol,label\n" + "".join(f"{200 + n},{n % 2}\n" for n in range(40)))
        done = salus("dataset", "add", site, "heart", site / "heart.csv", "--yes")
        assert done.returncode == 0, done.stderr
        done = salus("dataset", "declare", site, "heart", "--units", "chol=mg/dl", "--min-patients", "20", "--yes")
        assert done.returncode == 0, done.stderr
    return started


def written(folder: Path, text: str) -> Path:
    (folder / "job.toml").write_text(text)
    return folder / "job.toml"


def entries(trial: Trial) -> list[int]:
    return [len(Ledger(site / "ledger.sqlite", SystemClock()).entries()) for site in trial.sites]


def answered(trial: Trial, path: Path) -> dict[str, Any]:
    """Return a check in which every online site has answered; on a busy machine one may be too late for a first one."""
    found: dict[str, Any] = {}

    def complete() -> bool:
        found.update(json.loads(salus("job", "check", trial.coordinator, path, "--json").stdout))
        return all(site["source"] == "asked" for site in found["sites"] if site["online"])

    wait_until(complete, "every site has answered the check")
    return found


MISSPELT = [
    (IMAGES, '"pneumonia"', '"pnuemonia"', "'pneumonia'"),
    (IMAGES, '"chest-xray"', '"chest-xry"', "'chest-xray'"),
    (TABLE, '"chol"', '"chool"', "'chol'"),
    (TABLE, '"mg/dl"', '"mmol/l"', "'mg/dl'"),
]


@pytest.mark.parametrize(("text", "right", "wrong", "nearest"), MISSPELT, ids=["class", "data set", "column", "unit"])
def test_one_wrong_word_is_refused_at_submit_with_both_spellings(
    hospitals: Trial, federation: Trial, tmp_path: Path, text: str, right: str, wrong: str, nearest: str
) -> None:
    path = written(tmp_path, text.replace(right, wrong))
    jobs, spent = len(federation.admin.get("/jobs")), entries(federation)
    answered(federation, path)
    result = salus("job", "submit", federation.coordinator, path)
    assert result.returncode == 44
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    for part in (wrong.strip('"'), nearest, "5 cannot run it", "--anyway"):
        assert part in line
    assert len(federation.admin.get("/jobs")) == jobs
    checked = salus("job", "check", federation.coordinator, path, "--json")
    assert checked.returncode == 44
    assert all(nearest in json.dumps(site["problems"]) for site in json.loads(checked.stdout)["sites"])
    assert entries(federation) == spent


def test_queued_anyway_it_fails_at_every_site_and_costs_nobody_anything(
    hospitals: Trial, federation: Trial, tmp_path: Path
) -> None:
    path = written(tmp_path, IMAGES.replace('"pneumonia"', '"pnuemonia"'))
    spent = entries(federation)
    done = salus("job", "submit", federation.coordinator, path, "--anyway", "--watch")
    assert done.returncode == 50
    assert entries(federation) == spent
    for site in federation.sites:
        last = [event for event in read_events(site / "events.jsonl") if event.kind == "refused"][-1]
        assert last.fields["error"] == "UnfitError"
        assert "'pnuemonia'" in str(last.fields["text"])


def test_a_check_shows_each_site_and_the_job_that_fits_runs(
    hospitals: Trial, federation: Trial, tmp_path: Path
) -> None:
    path = written(tmp_path, IMAGES)
    answered(federation, path)
    shown = salus("job", "check", federation.coordinator, path)
    assert shown.returncode == 0, shown.stdout
    assert "Privacy cost per patient: epsilon 2" in shown.stdout
    (federation.sites[0] / "policy.toml").write_text("max_rounds = 1\n")
    federation.stop(federation.sites[1])  # says goodbye
    found = answered(federation, path)
    first, second, third = found["sites"][:3]
    assert [problem["requirement"] for problem in first["problems"]] == ["policy"]
    assert (second["online"], second["source"]) == (False, "remembered")
    assert second["declared"]["chest-xray"]["classes"] == ["healthy", "pneumonia"]
    assert (third["source"], third["problems"]) == ("asked", [])
    assert found["possible"]
    table = salus("job", "check", federation.coordinator, path).stdout
    assert "1 of 5 cannot run it." in table
    assert "1 rounds, not 2" in table


def test_while_a_job_runs_what_was_declared_before_is_used_and_said(
    hospitals: Trial, federation: Trial, tmp_path: Path
) -> None:
    path = written(tmp_path, IMAGES)
    assert answered(federation, path)["possible"]  # declarations are heard
    running = federation.submit(job_text(rounds=500, model="cnn"))
    federation.wait_for_round(running, 1)
    try:
        found: dict[str, Any] = {}

        def at_work() -> bool:  # between two rounds a check may ask the sites
            found.update(json.loads(salus("job", "check", federation.coordinator, path, "--json").stdout))
            return bool(found["busy"] == running)

        wait_until(at_work, "a check meets the job in a round")
        assert {site["source"] for site in found["sites"]} == {"remembered"}
        wrong = written(tmp_path, IMAGES.replace('"pneumonia"', '"pnuemonia"'))
        refused = salus("job", "submit", federation.coordinator, wrong)
        assert (refused.returncode, "'pneumonia'" in refused.stderr) == (44, True)
    finally:
        federation.admin.post(f"/jobs/{running}/cancel")
        federation.wait_for(running)


def test_data_that_move_while_a_job_runs_are_seen_by_their_operator_only(
    hospitals: Trial, federation: Trial, tmp_path: Path
) -> None:
    site = federation.sites[2]
    data = site / "toy.npz"
    data.rename(site / "moved.npz")
    try:
        job = federation.submit(IMAGES)
        result = federation.wait_for(job)
        events = federation.admin.get(f"/jobs/{job}/events")
        assert result["status"] == "finished"
        assert [event for event in events if event["kind"] == "left-out"] == []
        assert result["rounds"][-1]["sites"] == [1, 2, 3, 4, 5]
        status = salus("client", "status", site)
        assert status.returncode == 20
        assert "'chest-xray'" in status.stdout
        assert json.loads(salus("client", "status", site, "--json").stdout)["troubles"][0]["dataset"] == "chest-xray"
        assert "'chest-xray'" in (site / "daemon.log").read_text()
    finally:
        (site / "moved.npz").rename(data)
    assert salus("dataset", "check", site, "chest-xray").returncode == 0
    assert salus("client", "status", site).returncode == 0
