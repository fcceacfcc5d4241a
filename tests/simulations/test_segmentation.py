"""A tiny segmentation through the real rounds and sites in one process: plain, masked, and with both kinds of noise."""

from pathlib import Path

import numpy as np
import pytest
from tests.end_to_end.test_same_weights import final_weights

from salus.client.data.sources.settings import SourceOptions
from salus.common.job import parse_job
from salus.common.models import build_model
from salus.common.vectors import layout_of, read_parameters
from salus.simulations.samples import write_samples

JOB = """
[job]
name = "structures"
rounds = 2
min_sites = 3
[task]
kind = "segmentation"
model = "unet"
dataset = "structures"
classes = ["anterior", "posterior"]
shape = [8, 8, 8]
widths = [2, 4]
loss = "dice"
[[task.transforms]]
kind = "percentiles"
[[task.transforms]]
kind = "resize"
size = [10, 10, 10]
[[task.transforms]]
kind = "random-crop"
around = "foreground"
[training]
batch_size = 8
{training}
[aggregation]
protection = "{protection}"
max_patients = 50
[privacy]
noise = "{noise}"
"""
NOISE = "\nepsilon = 20.0\nsampling_rate = 0.5\npatients_per_site = 8\nclip_norm_l2 = 0.05\nevaluation_share = 0.2\n"


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("p") / "p", ("masks",), patients=50, seed=0, side=8)["masks"]


def trained(volumes: Path, folder: Path, protection: str, noise: str) -> np.ndarray:  # type: ignore[type-arg]
    """Return the final parameters, after a check that they are finite and not the first ones."""
    text = JOB.format(protection=protection, noise=noise, training="learning_rate = 0.1" if noise == "none" else "") + (
        NOISE if noise != "none" else ""
    )
    job = parse_job(text)
    found = np.frombuffer(final_weights(job, volumes, folder, SourceOptions()), np.float32)
    model = build_model(job.task, job.job.seed)
    assert np.isfinite(found).all()
    assert not np.allclose(found, read_parameters(model, layout_of(model)), atol=1e-4)
    return found


def test_masked_patches_train_to_the_weights_of_plain_ones(volumes: Path, tmp_path: Path) -> None:
    plain = trained(volumes, tmp_path / "plain", "none", "none")
    masked = trained(volumes, tmp_path / "masked", "masking", "none")
    assert np.allclose(plain, masked, atol=1e-4)


@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_patches_train_and_are_evaluated_under_noise(volumes: Path, tmp_path: Path, noise: str) -> None:
    trained(volumes, tmp_path, "masking", noise)
