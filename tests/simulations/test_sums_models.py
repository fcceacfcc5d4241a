"""A model from sums of a simulation is applied by `salus predict` with the key that the simulation shows."""

import csv
import json
from pathlib import Path

from tests.cli import salus
from tests.simulations.sample_jobs.first import COLUMNS, heart
from tests.tiny import tiny_text

JOB = "heart-forest.toml"
SOURCE = ("--label-column", "num", "--positive-above", 0, "--columns", ",".join((*COLUMNS, "num")))


def test_the_model_of_a_simulation_predicts(tmp_path: Path) -> None:
    tiny = heart(tmp_path)
    (tmp_path / "job.toml").write_text(tiny_text(JOB, tiny).replace("trees = 300", "trees = 3"))
    run = ("simulate", "job.toml", "--data", "heart.csv", "--sites", 3, *SOURCE, "--workers", 1, "--json", "-")
    kept = salus(*run, "--output", "run", cwd=tmp_path)
    assert kept.returncode == 0, kept.stderr
    values = json.loads(kept.stdout)
    assert "auc" in values["metrics"]
    done = salus(
        "predict",
        values["model"],
        "heart.csv",
        "--job",
        "job.toml",
        "--signed-by",
        values["signed_by"],
        "--json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "heart.csv").open() as file:
        assert len(json.loads(done.stdout)["items"]) == len(list(csv.reader(file))) - 1
    without = salus(*run, cwd=tmp_path)
    assert without.returncode == 0, without.stderr
    assert not {"model", "signed_by"} & json.loads(without.stdout).keys()
