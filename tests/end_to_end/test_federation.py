"""Whole federations: real processes, real TLS, really killed."""

import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.builders import job_text, write_npz

from salus.client.config import open_catalogue
from salus.client.data.sources.base import SourceOptions
from salus.client.performance import Performance
from salus.common.events import read_events
from salus.common.job import parse_job
from salus.simulations.simulate import simulate
from salus.simulations.trial import Trial, empty
from salus.simulations.virtual import make_hospitals
from salus.simulations.virtual import open_catalogue as virtual_catalogue

ALLOWED = "allow_unprotected = true\nallow_without_noise = true\n"


def found(folder: Path, sites: int = 3, policy: str = ALLOWED) -> Trial:
    empty(folder)
    trial = Trial(folder, [f"Site {n}" for n in range(1, sites + 1)], policy=policy)
    for number, site in enumerate(trial.sites, start=1):
        data = write_npz(site / "toy.npz", seed=number, images=60)
        open_catalogue(site).add("toy", "medmnist", data, SourceOptions())
    return trial


def wait_for_round(trial: Trial, job: str, round_: int) -> None:
    deadline = time.monotonic() + 120
    while len(trial.admin.get(f"/jobs/{job}")["rounds"]) < round_:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_daemons_end_with_the_same_model_as_the_simulation(tmp_path: Path) -> None:
    text = job_text(rounds=3, model="cnn", training='optimizer = "sgd"', min_sites=3)
    job = parse_job(text)
    data = write_npz(tmp_path / "all.npz", images=120)
    simulated = simulate(
        job, data, sites=3, partition="dirichlet:0.5", seed=3, folder=tmp_path / "sim",
        options=SourceOptions(), performance=Performance(device="cpu", threads=1),
    )  # fmt: skip
    make_hospitals(job, data, SourceOptions(), sites=3, partition="dirichlet:0.5", seed=3, folder=tmp_path / "again")
    empty(tmp_path / "real")
    trial = Trial(tmp_path / "real", ["A", "B", "C"], policy=ALLOWED)
    for number, site in enumerate(trial.sites, start=1):
        mine = {image.key for image in virtual_catalogue(tmp_path / "again", number).images("toy")}
        source = virtual_catalogue(tmp_path / "again", number).source("toy")
        records = [record for record in source.scan() if record.key in mine]
        open_catalogue(site).add_records("toy", "medmnist", data, SourceOptions(), records)
    with trial:
        trial.start_all()
        result = trial.wait_for(trial.submit(text))
    assert result["status"] == "finished"
    real, virtual = load_file(result["model"]), load_file(simulated.model)
    assert real.keys() == virtual.keys()
    for name in real:
        assert np.allclose(real[name], virtual[name], atol=1e-5), name


def test_a_killed_coordinator_and_a_killed_site_do_not_end_the_job(tmp_path: Path) -> None:
    trial = found(tmp_path / "t")
    with trial:
        trial.start_all()
        job = trial.submit(job_text(rounds=12, model="cnn", round_timeout_s=30, training="local_epochs = 15"))
        wait_for_round(trial, job, 2)
        trial.kill(trial.sites[0])
        trial.start(trial.sites[0])
        wait_for_round(trial, job, 4)
        trial.kill(trial.coordinator)
        trial.start(trial.coordinator)
        result = trial.wait_for(job)
    assert result["status"] == "finished"
    assert [record["round"] for record in result["rounds"]] == list(range(1, 13))
    assert all(len(record["sites"]) >= 2 for record in result["rounds"])
    assert result["rounds"][-1]["sites"] == [1, 2, 3], "the killed site came back"
    kinds = [event.kind for event in read_events(trial.coordinator / "events.jsonl")]
    assert "resumed" in kinds
    assert Path(result["model"]).exists()


def test_a_site_that_stays_away_is_left_out_and_the_rest_go_on(tmp_path: Path) -> None:
    trial = found(tmp_path / "t")
    with trial:
        trial.start_all()
        job = trial.submit(job_text(rounds=4, model="cnn", round_timeout_s=6, training="local_epochs = 10"))
        wait_for_round(trial, job, 1)
        trial.kill(trial.sites[2])
        result = trial.wait_for(job)
    assert result["status"] == "finished"
    assert result["rounds"][-1]["sites"] == [1, 2]


def test_sites_whose_policy_forbids_it_take_no_part_and_the_job_says_why(tmp_path: Path) -> None:
    trial = found(tmp_path / "t", sites=2, policy="")
    with trial:
        trial.start_all()
        result = trial.wait_for(trial.submit(job_text()))
        events = trial.admin.get(f"/jobs/{result['job']}/events")
    assert result["status"] == "failed"
    assert any("allow_unprotected" in event["fields"].get("text", "") for event in events)
    for site in trial.sites:
        assert not any(event.kind == "trained" for event in read_events(site / "events.jsonl"))


@pytest.mark.parametrize("when", ["waiting", "running"])
def test_jobs_can_be_cancelled(tmp_path: Path, when: str) -> None:
    trial = found(tmp_path / "t", sites=2)
    with trial:
        trial.start_all()
        first = trial.submit(job_text(rounds=500, model="cnn"))
        job = first if when == "running" else trial.submit(job_text())
        wait_for_round(trial, first, 1)
        trial.admin.post(f"/jobs/{job}/cancel")
        assert trial.wait_for(job, 30)["status"] == "cancelled"
        trial.admin.post(f"/jobs/{first}/cancel")
        assert trial.wait_for(first, 30)["status"] == "cancelled"
