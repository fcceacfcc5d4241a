"""Tiny jobs on items of several images through real rounds and sites: masked, with both kinds of noise, and what order tells."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.end_to_end.test_same_weights import final_weights

from salus.client.data.sources.settings import SourceOptions
from salus.common.batch import Batch
from salus.common.job import parse_job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.vectors import layout_of, read_parameters
from salus.simulations.phantom_sequences import RADII
from salus.simulations.samples import write_samples

JOB = """
[job]
name = "several"
rounds = 1
min_sites = 3
[task]
kind = "{kind}"
model = "{model}"
dataset = "d"
classes = [{classes}]
shape = [8, 8]
most_images = 4
feature_width = 8
[training]
batch_size = 8
[aggregation]
protection = "{protection}"
max_patients = 50
[privacy]
noise = "{noise}"
"""
NOISE = "epsilon = 20.0\nsampling_rate = 0.5\npatients_per_site = 8\nevaluation_share = 0.2\n"


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_samples(tmp_path_factory.mktemp("p") / "p", ("visits", "bags"), patients=24, seed=0, side=8)


@pytest.mark.parametrize(
    ("kind", "model", "noise"),
    [
        ("sequence", "gru", "none"),
        ("sequence", "gru", "local"),
        ("multi-instance", "bag", "none"),
        ("multi-instance", "bag", "distributed"),
    ],
)
def test_a_job_runs_masked_and_under_noise(
    kind: str, model: str, noise: str, patients: dict[str, Path], tmp_path: Path
) -> None:
    data = patients["visits" if kind == "sequence" else "bags"]
    classes = '"shrinking", "growing"' if kind == "sequence" else '"healthy", "lesion"'
    text = JOB.format(kind=kind, model=model, classes=classes, protection="masking", noise=noise)
    job = parse_job(text + (NOISE if noise != "none" else ""))
    found = np.frombuffer(final_weights(job, data, tmp_path, SourceOptions()), np.float32)
    net = build_model(job.task, job.job.seed)
    first = read_parameters(net, layout_of(net))
    assert np.isfinite(found).all()
    assert not np.allclose(found, first)


def courses(count: int, generator: torch.Generator) -> Batch:
    """Return disks that grow or shrink, the same set of pictures for both classes, and a masked place behind some."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8), indexing="ij")
    radii = torch.linspace(*RADII, 3)
    label = torch.arange(count) % 2
    image = torch.zeros(count, 4, 1, 8, 8)
    for number in range(count):
        order = radii if label[number] else radii.flip(0)
        disks = (x**2 + y**2)[None] < order[:, None, None] ** 2
        image[number, :3, 0] = disks + 0.1 * torch.randn(3, 8, 8, generator=generator)
    there = torch.tensor([1.0, 1, 1, 0]).expand(count, 4)
    return Batch({"image": image, "image.there": there, "label": label})


@pytest.mark.parametrize(("kind", "model", "learns"), [("sequence", "gru", True), ("multi-instance", "bag", False)])
def test_only_a_network_that_knows_the_order_learns_a_course(kind: str, model: str, learns: bool) -> None:
    job = parse_job(JOB.format(kind=kind, model=model, classes='"a", "b"', protection="masking", noise="none"))
    task, net = make_task(job.task), build_model(job.task, 0)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        task.losses(net, courses(16, generator), task.steps[0]).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    test = courses(64, generator)
    with torch.no_grad():
        rows = task.rows(task.infer(net, test), test)
    auc = task.metrics(rows.sum(dim=0).numpy())["auc"]
    assert auc > 0.95 if learns else 0.2 < auc < 0.8
