"""Faithfulness of explanations over sites, through the masked sum and under noise."""

from pathlib import Path

import pytest
from tests.builders import write_npz
from tests.tiny import Tiny, run_tiny

from salus.common.faithfulness import MEASURES
from salus.common.job import parse_job

JOB = """
[job]
name = "faithful"
rounds = 1
min_sites = 3
[task]
kind = "explained-classification"
model = "cnn"
dataset = "toy"
classes = ["0", "1"]
shape = [8, 8]
explained_steps = 2
[aggregation]
protection = "{protection}"
max_patients = 60
[privacy]
noise = "{noise}"
"""
NOISE = "epsilon = 50.0\nsampling_rate = 0.5\npatients_per_site = 30\nevaluation_share = 0.5\n"


def metrics(folder: Path, protection: str, noise: str) -> dict[str, object]:
    tiny = Tiny(write_npz(folder / "toy.npz", images=300))
    job = parse_job(JOB.format(protection=protection, noise=noise) + (NOISE if noise != "none" else ""))
    record = run_tiny(job, tiny, folder / "run")
    found: dict[str, object] = record["metrics"] or record.get("final_metrics")
    return found


def test_the_masked_sum_gives_what_the_plain_one_gives(tmp_path: Path) -> None:
    for name in ("plain", "masked"):
        (tmp_path / name).mkdir()
    plain, masked = metrics(tmp_path / "plain", "none", "none"), metrics(tmp_path / "masked", "masking", "none")
    for name in MEASURES:
        assert masked[name] == pytest.approx(plain[name], abs=1e-4)
        assert 0 <= float(str(masked[name])) <= 1


@pytest.mark.parametrize("noise", [pytest.param("local", marks=pytest.mark.slow), "distributed"])
def test_the_means_come_with_their_errors_under_noise(tmp_path: Path, noise: str) -> None:
    found = metrics(tmp_path, "masking", noise)
    assert set(MEASURES) <= set(found)
