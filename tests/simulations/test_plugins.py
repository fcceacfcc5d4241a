"""A package outside Salus adds a task, a model, a transform, a strategy, a loss and an attribute of subgroups, and a job uses
all six, masked and private.

The package is installed as another hospital would install it: a folder with its modules and metadata on the path of the
processes. Nothing in Salus names it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from salus.common.errors import JobError
from salus.common.job import load_job
from salus.simulations.phantom_masks import write_structures

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tests" / "plugin_package"
KINDS = {"task": "scaled", "model": "three_layers", "transform": "square_root", "strategy": "damped", "loss": "squared",
         "attribute": "slices"}  # fmt: skip
JOB = """
format = 1
[job]
name = "with-plug-ins"
rounds = 2
min_sites = 5
[task]
kind = "scaled-segmentation"
loss_scale = 2.0
model = "three-layers"
hidden = 4
dataset = "phantoms"
classes = ["anterior", "posterior"]
shape = [12, 12, 12]
loss = "squared"
count_background = false
[[task.transforms]]
kind = "resize"
[[task.transforms]]
kind = "square-root"
strength = 0.5
[training]
batch_size = 4
learning_rate = 1e-2
validation_fraction = 0.5
{training}
[aggregation]
protection = "masking"
strategy = "damped"
damping = 0.05
max_patients = 20
[privacy]
{privacy}
[evaluation]
subgroups = ["slices"]
many_slices = 10
{evaluation}
"""
PRIVATE = 'noise = "local"\nepsilon = 8.0\nsteps_per_round = 2\nsampling_rate = 0.5\npatients_per_site = 6'


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder outside the tree with the package and its metadata, as pip would write them."""
    place = tmp_path_factory.mktemp("site-packages")
    shutil.copytree(PACKAGE / "salus_extras", place / "salus_extras", ignore=shutil.ignore_patterns("__pycache__"))
    metadata = place / "salus_extras-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: salus-extras\nVersion: 1.0\n")
    shutil.copy(PACKAGE / "entry_points.txt", metadata / "entry_points.txt")
    return place


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_structures(tmp_path_factory.mktemp("volumes"), 30, 0, 12)


def salus(place: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "salus", *map(str, arguments)], capture_output=True, text=True, env=environment, cwd=ROOT
    )


def job_file(folder: Path, privacy: str = 'noise = "none"', *changes: tuple[str, str]) -> Path:
    private = "local" in privacy
    text = JOB.format(
        privacy=privacy,
        training="" if private else "local_epochs = 2",
        evaluation="" if private else "min_patients = 1",
    )
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "job.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "privacy",
    [pytest.param('noise = "none"', id="masked", marks=pytest.mark.slow), pytest.param(PRIVATE, id="private")],
)
def test_a_job_with_six_plug_ins_runs(installed: Path, volumes: Path, tmp_path: Path, privacy: str) -> None:
    job, result = job_file(tmp_path, privacy), tmp_path / "result.json"
    ran = salus(installed, "simulate", job, "--data", volumes, "--sites", 5, "--json", result)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(result.read_text())
    assert len(found["rounds"]) == 2
    assert all(record["sites"] == [1, 2, 3, 4, 5] for record in found["rounds"])
    assert 0 <= found["metrics"]["dice_anterior"] <= 1
    spent = [entry.get("epsilon") for entry in found["privacy"]["sites"]]
    if privacy == PRIVATE:
        assert len(spent) == 5
        assert all(0 < epsilon <= 8.0 for epsilon in spent)
    else:
        assert not any(spent)
        groups = found["subgroups"]["slices"]["groups"]
        assert groups["many"]["patients"] > 0
        assert "dice_anterior" in groups["many"]["metrics"]
        assert groups["few"] == groups["unknown"] == {"patients": 0, "metrics": {}}


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("loss_scale", "loss_scal", "did you mean 'loss_scale'"),
        ("hidden = 4", "hiden = 4", "did you mean 'hidden'"),
        ("strength", "strenght", "did you mean 'strength'"),
        ("damping = 0.05", "dampin = 0.05", "did you mean 'damping'"),
        ("count_background", "count_backgroud", "did you mean 'count_background'"),
        ("hidden = 4", "hidden = 400", "hidden"),
        ("many_slices", "many_slice", "did you mean 'many_slices'"),
    ],
)
def test_an_unknown_or_wrong_key_of_a_plug_in_is_an_error_that_names_the_nearest(
    installed: Path, tmp_path: Path, old: str, new: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(installed)
    load_job(job_file(tmp_path))
    with pytest.raises(JobError, match=text):
        load_job(job_file(tmp_path, 'noise = "none"', (old, new)))


def test_without_the_package_the_job_is_refused_and_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(JobError) as caught:
        load_job(job_file(tmp_path))
    assert "scaled-segmentation" in str(caught.value)
    assert "install the package" in str(caught.value)


def test_each_plug_in_is_one_file_and_one_line() -> None:
    lines = [line for line in (PACKAGE / "entry_points.txt").read_text().splitlines() if "=" in line]
    assert len(lines) == len(KINDS)
    files = {path.stem for path in (PACKAGE / "salus_extras").glob("*.py")} - {"__init__"}
    assert files == set(KINDS.values())
    for name in files:
        assert sum(f"salus_extras.{name}:" in line for line in lines) == 1
