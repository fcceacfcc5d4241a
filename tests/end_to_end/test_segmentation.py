"""A masked segmentation over real daemons: the simulation's weights, a killed site, and masks that became unreadable."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.cli import salus

from salus.client.config import open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.client.performance import Performance
from salus.common.job import parse_job
from salus.common.models import build_model
from salus.simulations.samples import write_samples
from salus.simulations.simulate import simulate
from salus.simulations.trial import Trial
from salus.simulations.virtual import make_hospitals
from salus.simulations.virtual import open_catalogue as virtual_catalogue

SIDE, PATIENTS = 8, 40
JOB = """
[job]
name = "structures"
rounds = {rounds}
min_sites = 3
[task]
kind = "segmentation"
model = "unet"
dataset = "{dataset}"
classes = ["anterior", "posterior"]
shape = [8, 8, 8]
widths = [2, 4]
loss = "dice"
[training]
batch_size = 4096
optimizer = "sgd"
learning_rate = 0.5
local_epochs = {epochs}
validation_fraction = 0.0
[aggregation]
max_patients = 50
[privacy]
noise = "none"
"""


@pytest.mark.slow  # `test_federation` compares daemons with the simulation every day, for classification
def test_daemons_end_with_the_same_segmentation_as_the_simulation(federation: Trial, tmp_path: Path) -> None:
    text = JOB.format(rounds=2, dataset="structures", epochs=2)  # one batch an epoch: its order is each site's secret
    job = parse_job(text)
    data = write_samples(tmp_path / "phantoms", ("masks",), patients=PATIENTS, seed=0, side=SIDE)["masks"]
    simulated = simulate(
        job, data, sites=5, partition="iid", seed=3, folder=tmp_path / "sim",
        options=SourceOptions(), performance=Performance(device="cpu", threads=1),
    )  # fmt: skip
    assert 0 <= simulated.metrics["dice_mean"] <= 1
    assert {"dice_anterior", "hausdorff95_mm_posterior"} <= simulated.metrics.keys()
    make_hospitals(job, data, SourceOptions(), sites=5, partition="iid", seed=3, folder=tmp_path / "again")
    for number, site in enumerate(federation.sites, start=1):
        virtual = virtual_catalogue(tmp_path / "again", number)
        mine = {image.key for image in virtual.images("structures")}
        records = [record for record in virtual.source("structures").scan() if record.key in mine]
        declared = virtual.declarations.all()["structures"] or False
        open_catalogue(site).add_records("structures", "nifti", data, SourceOptions(), records, declare=declared)
    result = federation.wait_for(federation.submit(text))
    assert result["status"] == "finished"
    real, virtual_weights = load_file(result["model"]), load_file(simulated.model)
    assert real.keys() == virtual_weights.keys()
    for name in real:
        # The masked sum's fixed point rounds to about 1e-5 here.
        assert np.allclose(real[name], virtual_weights[name], atol=1e-4), name
    first = dict(build_model(job.task, job.job.seed).named_parameters())
    moved = max(float(np.abs(real[name] - first[name].detach().numpy()).max()) for name in real)
    assert moved > 1e-2, "the comparison could not fail"


def test_a_killed_site_comes_back_and_one_with_unreadable_masks_finishes_and_says_so(
    federation: Trial, tmp_path: Path
) -> None:
    for number, site in enumerate(federation.sites, start=1):
        own = write_samples(site / "volumes", ("masks",), patients=20, seed=number, side=SIDE)["masks"]
        open_catalogue(site).add("damaged", "nifti", own, SourceOptions())
    killed, damaged = federation.sites[0], federation.sites[2]
    labels = sorted((damaged / "volumes" / "masks" / "labelsTr").iterdir())
    for path in labels[::2]:
        path.write_bytes(path.read_bytes()[:100])
    try:
        job = federation.submit(JOB.format(rounds=8, dataset="damaged", epochs=20))
        federation.wait_for_round(job, 2)
        federation.kill(killed)
        federation.start(killed)
        result = federation.wait_for(job)
        assert result["status"] == "finished"
        assert [record["round"] for record in result["rounds"]] == list(range(1, 9))
        assert result["rounds"][-1]["sites"] == [1, 2, 3, 4, 5], "the killed site came back, the damaged one never left"
        status = salus("client", "status", damaged)
        assert status.returncode == 20
        (trouble,) = json.loads(salus("client", "status", damaged, "--json").stdout)["troubles"]
        assert trouble["dataset"] == "damaged"
        assert salus("client", "status", federation.sites[1]).returncode == 0
    finally:
        shutil.rmtree(damaged / "volumes")
        salus("dataset", "remove", damaged, "damaged", "--yes")
