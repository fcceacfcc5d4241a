"""Whole federations: real processes, real TLS, really killed."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.builders import job_text, write_npz

from salus.client.config import open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.client.performance import Performance
from salus.common.events import Event, read_events
from salus.common.job import parse_job
from salus.simulations.simulate import simulate
from salus.simulations.trial import Trial
from salus.simulations.virtual import make_hospitals
from salus.simulations.virtual import open_catalogue as virtual_catalogue


def test_daemons_end_with_the_same_model_as_the_simulation(federation: Trial, tmp_path: Path) -> None:
    text = job_text(rounds=3, model="cnn", training='optimizer = "sgd"', min_sites=3, dataset="parted")
    # One batch an epoch: in smaller ones the order follows from each site's own secret.
    text = text.replace("batch_size = 8", "batch_size = 4096")
    job = parse_job(text)
    data = write_npz(tmp_path / "all.npz", images=120)
    simulated = simulate(
        job, data, sites=3, partition="dirichlet:0.5", seed=3, folder=tmp_path / "sim",
        options=SourceOptions(), performance=Performance(device="cpu", threads=1),
    )  # fmt: skip
    make_hospitals(job, data, SourceOptions(), sites=3, partition="dirichlet:0.5", seed=3, folder=tmp_path / "again")
    for number, site in enumerate(federation.sites[:3], start=1):
        mine = {image.key for image in virtual_catalogue(tmp_path / "again", number).images("parted")}
        source = virtual_catalogue(tmp_path / "again", number).source("parted")
        records = [record for record in source.scan() if record.key in mine]
        declared = virtual_catalogue(tmp_path / "again", number).declarations.all()["parted"] or False
        open_catalogue(site).add_records("parted", "medmnist", data, SourceOptions(), records, declare=declared)
    result = federation.wait_for(federation.submit(text))
    assert result["status"] == "finished"
    real, virtual = load_file(result["model"]), load_file(simulated.model)
    assert real.keys() == virtual.keys()
    for name in real:
        assert np.allclose(real[name], virtual[name], atol=1e-5), name


def test_a_killed_coordinator_and_a_killed_site_do_not_end_the_job(federation: Trial) -> None:
    job = federation.submit(job_text(rounds=12, model="cnn", training="local_epochs = 5"))
    federation.wait_for_round(job, 2)
    federation.kill(federation.sites[0])
    federation.start(federation.sites[0])
    federation.wait_for_round(job, 4)
    federation.kill(federation.coordinator)
    federation.start(federation.coordinator)
    result = federation.wait_for(job)
    assert result["status"] == "finished"
    assert [record["round"] for record in result["rounds"]] == list(range(1, 13))
    assert all(len(record["sites"]) >= 2 for record in result["rounds"])
    assert result["rounds"][-1]["sites"] == [1, 2, 3, 4, 5], "the killed site came back"
    kinds = [event.kind for event in read_events(federation.coordinator / "events.jsonl")]
    assert "resumed" in kinds
    assert Path(result["model"]).exists()


def test_a_site_that_leaves_is_left_out_and_the_rest_go_on(federation: Trial) -> None:
    """It says goodbye, so nobody waits for it; one that dies silently is `tests/server/test_federation.py`'s."""
    job = federation.submit(job_text(rounds=4, model="cnn", training="local_epochs = 10"))
    federation.wait_for_round(job, 1)
    federation.stop(federation.sites[2])
    result = federation.wait_for(job)
    assert result["status"] == "finished"
    assert result["rounds"][-1]["sites"] == [1, 2, 4, 5]


def test_sites_whose_policy_forbids_it_take_no_part_and_the_job_says_why(federation: Trial) -> None:
    for site in federation.sites:
        (site / "policy.toml").write_text("")
    before = [len(trained(site)) for site in federation.sites]
    result = federation.wait_for(federation.submit(job_text(), anyway=True))
    events = federation.admin.get(f"/jobs/{result['job']}/events")
    assert result["status"] == "failed"
    assert any("allow_unprotected" in event["fields"].get("text", "") for event in events)
    assert [len(trained(site)) for site in federation.sites] == before


def trained(site: Path) -> list[Event]:
    return [event for event in read_events(site / "events.jsonl") if event.kind == "trained"]


@pytest.mark.parametrize("when", ["waiting", "running"])
def test_jobs_can_be_cancelled(federation: Trial, when: str) -> None:
    first = federation.submit(job_text(rounds=500, model="cnn"))
    job = first if when == "running" else federation.submit(job_text())
    federation.wait_for_round(first, 1)
    federation.admin.post(f"/jobs/{job}/cancel")
    assert federation.wait_for(job)["status"] == "cancelled"
    federation.admin.post(f"/jobs/{first}/cancel")
    assert federation.wait_for(first)["status"] == "cancelled"
