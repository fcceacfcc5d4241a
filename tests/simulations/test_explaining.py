"""Phantoms with lesions at known places, and the whole way from them to explanations that point there."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli import salus

from salus.simulations.phantom_lesions import draw_lesion, write_lesions

JOB = Path(__file__).resolve().parents[2] / "simulations" / "jobs" / "phantom-lesions.toml"


def test_boxes_hold_the_lesions_and_only_pictures_with_one_have_a_box(tmp_path: Path) -> None:
    write_lesions(tmp_path, 6, 0, 48)
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["healthy", "lesion"] * 3
    for row in rows:
        name = Path(row["file"]).stem
        assert np.asarray(Image.open(tmp_path / row["file"])).shape == (48, 48)
        boxes = (tmp_path / "Annotations" / f"{name}.xml").read_text().count("<object>")
        assert boxes == (row["label"] == "lesion")


def test_the_box_is_where_the_picture_is_brighter_than_without_the_lesion() -> None:
    for seed in range(5):
        sick, box = draw_lesion(np.random.default_rng(seed), 48, True)
        healthy, none = draw_lesion(np.random.default_rng(seed), 48, False)
        assert box is not None
        assert none is None
        rows, columns = np.nonzero(sick - healthy)
        assert box == (rows.min(), rows.max(), columns.min(), columns.max())


@pytest.mark.slow
def test_explanations_point_to_the_lesions_and_those_of_random_weights_do_not(tmp_path: Path) -> None:
    """What docs/explain.md says, with half of the pictures."""
    commands = (
        "phantoms train --kind lesions --patients 400 --side 64",
        "phantoms new --kind lesions --patients 100 --seed 7 --side 64",
        f"simulate {JOB} --sites 5 --data train/lesions --output run",
        "model export run package",
        "explain package new/lesions --cases 100 --methods grad-cam,integrated-gradients --set integrated-gradients.steps=16",
    )
    for line in commands:
        result = salus(*line.split(), cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "explanations" / "explain.json").read_text())["methods"]
    for name in ("grad-cam", "integrated-gradients"):
        own = found[name]
        assert own["pointing_cases"] >= 15
        assert own["pointing_game"] >= 0.9, name
        assert own["pointing_game_random_weights"] <= own["pointing_chance"] + 0.1, name
        assert own["random_weights"] < 0.5, name
        assert own["deletion"] < own["random_deletion"], name
        assert own["insertion"] > own["random_insertion"], name
