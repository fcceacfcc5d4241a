"""`salus dataset evaluate`: held-out patients only, the worst first, and a page that stays at the site."""

import json
import re
from pathlib import Path

import pytest
from safetensors.numpy import save_file
from tests.cli import Result, salus
from tests.client.predicting.worlds import write_job, write_model, write_pictures

from salus.client.config import open_catalogue
from salus.common.job import load_job
from salus.common.models import build_model
from salus.common.vectors import layout_of, read_parameters
from salus.simulations.phantom_masks import write_structures

STRUCTURES = """
[job]
name = "structures"
rounds = 1
[task]
kind = "segmentation"
model = "unet"
dataset = "structures"
classes = ["anterior", "posterior"]
shape = [16, 16, 16]
widths = [4, 8]
[training]
validation_fraction = 0.4
[privacy]
noise = "none"
"""


def evaluated(place: Path, name: str, *words: object) -> Result:
    return salus("dataset", "evaluate", "site", name, "model.safetensors", "--job", "job.toml", *words, cwd=place)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with a site whose held-out pictures are three: two easy ones, and one with a wrong label."""
    write_model(tmp_path / "model.safetensors", write_job(tmp_path / "job.toml"))
    greys = {"a.png": 10, "b.png": 250, "c.png": 240, "d.png": 245, "e.png": 5}
    write_pictures(tmp_path / "scans", greys)
    rows = "a.png,dark,1,val\nb.png,bright,2,val\nc.png,dark,3,test\nd.png,bright,4,train\ne.png,bright,5,train\n"
    (tmp_path / "scans" / "labels.csv").write_text("file,label,PatientID,split\n" + rows)
    assert salus("client", "init", "site", "--name", "S", cwd=tmp_path).returncode == 0
    assert salus("dataset", "add", "site", "toy", "scans", "--yes", cwd=tmp_path).returncode == 0
    return tmp_path


def test_only_held_out_patients_count_and_the_worst_comes_first(place: Path) -> None:
    result = evaluated(place, "toy", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["patients"], found["images"], found["left_out"]) == (3, 3, {})
    assert found["metrics"]["accuracy"] == pytest.approx(2 / 3)  # a training patient is wrong too, and does not count
    page = place / "site" / "reports" / "evaluation-toy-bright.html"
    assert page.stat().st_mode & 0o777 == 0o600
    text = page.read_text()
    catalogue = open_catalogue(place / "site")
    wrong = next(image.patient for image in catalogue.images("toy") if image.label == "dark" and image.split == "test")
    training = {image.patient for image in catalogue.images("toy") if image.split == "train"}
    named = re.findall(r"[0-9a-f]{32}(?=, image)", text)
    assert named[0] == wrong
    assert not training & set(named)
    assert "is dark, model says bright" in text
    assert str(place) not in text + result.stdout


def test_a_segmentation_shows_what_was_predicted_beside_what_is_annotated(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    write_structures(tmp_path / "scans", 12, 0, 16)
    (tmp_path / "job.toml").write_text(STRUCTURES)
    network = build_model(load_job(tmp_path / "job.toml").task, 0)
    layout = layout_of(network)
    save_file(dict(layout.unflatten(read_parameters(network, layout))), tmp_path / "model.safetensors")
    assert salus("client", "init", "site", "--name", "S", cwd=tmp_path).returncode == 0
    assert salus("dataset", "add", "site", "structures", "scans", "--yes", cwd=tmp_path).returncode == 0
    result = evaluated(tmp_path, "structures", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert 0 < found["images"] < 12
    assert 0 <= found["metrics"]["dice_mean"] <= 1
    text = (tmp_path / "site" / "reports" / "evaluation-structures-structures.html").read_text()
    assert text.count("<figcaption>") == 2 * found["images"]
    assert text.count(", annotated</figcaption>") == found["images"]


def test_without_a_held_out_patient_nothing_is_said(place: Path) -> None:
    (place / "scans" / "labels.csv").write_text("file,label,PatientID,split\na.png,grey,1,val\nb.png,bright,2,train\n")
    assert salus("dataset", "add", "site", "other", "scans", "--yes", cwd=place).returncode == 0
    result = evaluated(place, "other")
    assert result.returncode == 20
    assert "no held-out patient" in result.stderr
    assert evaluated(place, "absent").returncode == 20
