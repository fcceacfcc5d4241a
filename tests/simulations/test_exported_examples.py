"""Models of real data, exported: MONAI's runner, onnxruntime and XGBoost give the outputs of Salus.

The jobs are the sample jobs with fewer rounds: whether two programs compute the same does not depend on how good the weights are.
Each test prints the largest difference that it found.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tomli_w
import torch
from PIL import Image
from tests.cli import salus
from torch import nn

from salus.client.data.dicom.isolation import Decoding
from salus.client.data.examples import example_of
from salus.client.data.sources.settings import SourceOptions
from salus.client.predicting.inputs import from_folder
from salus.common.batch import Batch, stacked
from salus.common.job import Job
from salus.common.package.checking import checked_package
from salus.common.package.model import network_of
from salus.common.tasks import make_task
from salus.common.tasks.detection import Detection

pytestmark = [pytest.mark.slow, pytest.mark.shared_data]
JOBS = Path(__file__).resolve().parents[2] / "simulations" / "jobs"
TOLERANCE = 1e-4
ITEMS = 24
HEART = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal"]


def exported(folder: Path, name: str, data: Path, *words: object, forms: Sequence[str], **changes: object) -> Path:
    """Run a sample job with some of its settings changed; returns the folder of its package."""
    job = tomllib.loads((JOBS / name).read_text())
    for key, value in changes.items():
        section, _, inner = key.partition("__")
        job[section][inner] = value
    (folder / name).write_text(tomli_w.dumps(job))
    ran = salus("simulate", name, "--data", data, *words, "--output", "run", "--workers", 1, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    made = salus("model", "export", "run", "package", *forms, cwd=folder)
    assert made.returncode == 0, made.stderr
    return folder / "package"


def opened(package: Path) -> tuple[Job, nn.Module, bytes]:
    with checked_package(package) as found:
        return found.job, network_of(found), found.read("onnx/model.onnx")


class Session(nn.Module):
    """An ONNX graph in place of the network."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def forward(self, values: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        given = self.session.get_inputs()[0].name
        found = tuple(map(torch.from_numpy, self.session.run(None, {given: values.contiguous().numpy()})))
        return found[0] if len(found) == 1 else found


def batch_of(folder: Path, kind: str, job: Job, most: int = ITEMS) -> Batch:
    """Return files as the task gets them, through the job's transforms without random steps."""
    inputs = from_folder(folder, kind, SourceOptions(), Decoding(), volumes=len(job.task.shape) == 3)
    task = make_task(job.task)
    items = []
    for found in inputs.found[:most]:
        sample = inputs.source.load(found.key)
        example = example_of(sample, job.task, "", measured=task.chain.measured)
        items.append(task.prepare(task.chain.traced(example)[-1]))
    return stacked(items)


def runner_of_monai(package: Path, scans: Path, outputs: Path) -> None:
    root = package / "bundle"
    run = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", root / "configs" / "inference.json",
         "--bundle_root", root, "--dataset_dir", scans, "--output_dir", outputs],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def same(what: str, found: object, wanted: object) -> None:
    """Compare relative to the largest value, at least 1, as the export does."""
    ours, theirs = np.asarray(found, float), np.asarray(wanted, float)
    assert ours.shape == theirs.shape
    assert ours.size
    difference = float(np.abs(ours - theirs).max()) / max(1.0, float(np.abs(theirs).max()))
    print(f"{what}: {difference:.1e} in {ours.size} numbers")
    assert difference <= TOLERANCE


def test_pneumonia(tmp_path: Path, shared_data: Path) -> None:
    data = shared_data / "pneumoniamnist" / "pneumoniamnist.npz"
    package = exported(
        tmp_path, "pneumonia.toml", data, "--sites", 8, "--partition", "dirichlet:0.5",
        forms=["--onnx", "--bundle"], job__rounds=2,
    )  # fmt: skip
    scans = tmp_path / "scans"
    scans.mkdir()
    for place, image in enumerate(np.load(data)["test_images"][:ITEMS]):
        Image.fromarray(image).save(scans / f"{place:03}.png")
    job, network, graph = opened(package)
    batch = batch_of(scans, "images", job)
    with torch.no_grad():
        wanted = network(batch["image"])
        same("pneumonia: onnxruntime and torch, logits", Session(graph)(batch["image"]), wanted)
    runner_of_monai(package, scans, tmp_path / "outputs")
    predicted = salus("predict", package, scans, "--output", tmp_path / "predictions", "--json")
    assert predicted.returncode == 0, predicted.stderr
    items = json.loads(predicted.stdout)["items"]
    logits = torch.from_numpy(np.stack([np.load(tmp_path / "outputs" / f"{one['item']}.npy") for one in items]))
    said = [list(one["probabilities"].values()) for one in items]
    assert len(items) == ITEMS
    same("pneumonia: MONAI's runner and salus predict, probabilities", torch.softmax(logits, 1), said)


def test_hippocampus(tmp_path: Path, shared_data: Path) -> None:
    data = shared_data / "hippocampus"
    package = exported(
        tmp_path, "hippocampus.toml", data, "--sites", 5, forms=["--onnx", "--bundle"], job__rounds=1
    )  # fmt: skip
    scans = tmp_path / "scans"
    scans.mkdir()
    for path in sorted((data / "images").glob("*.nii.gz"))[:6]:
        shutil.copy(path, scans)
    job, network, graph = opened(package)
    task, batch = make_task(job.task), batch_of(scans, "nifti", job)
    with torch.no_grad():
        wanted = task.infer(network, batch)
        same("hippocampus: onnxruntime and torch, logits", task.infer(Session(graph), batch), wanted)
    runner_of_monai(package, scans, tmp_path / "outputs")
    found = np.stack([np.load(path) for path in sorted((tmp_path / "outputs").iterdir())])
    same("hippocampus: MONAI's runner and torch, logits", found, wanted)


def test_boosted_trees(tmp_path: Path, shared_data: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    data = shared_data / "heart_disease"
    package = exported(
        tmp_path, "heart-boosting.toml", data, "--sites", 4, "--partition", "group", "--label-column", "num",
        "--positive-above", 0, "--columns", ",".join([*HEART, "num"]), forms=[],
    )  # fmt: skip
    with (data / "processed.cleveland.data").open() as file:
        lines = [line for line in csv.reader(file) if line and line[0][0].isdigit()]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["PatientID", *HEART], *([n, *row[:13]] for n, row in enumerate(lines))])
    predicted = salus("predict", package, tmp_path / "rows.csv", "--output", tmp_path / "predictions", "--json")
    assert predicted.returncode == 0, predicted.stderr
    said = [one["probabilities"]["present"] for one in json.loads(predicted.stdout)["items"]]
    booster = xgboost.Booster()
    booster.load_model(package / "trees" / "xgboost.json")
    values = np.array([[np.nan if cell in ("", "?") else float(cell) for cell in row[:13]] for row in lines])
    assert np.isnan(values).any()
    found = booster.predict(xgboost.DMatrix(values, feature_names=booster.feature_names))
    same("heart disease: XGBoost and salus predict, probabilities", found, said)


def test_a_detector(tmp_path: Path, shared_data: Path) -> None:
    """RetinaNet on blood cells: the maps of the graph, and the boxes that the task makes of them."""
    pictures = sorted((shared_data / "bccd" / "BCCD" / "JPEGImages").glob("*.jpg"))
    package = exported(
        tmp_path, "bccd.toml", shared_data / "bccd", "--sites", 4, forms=["--onnx"], job__rounds=1, training__local_epochs=1
    )  # fmt: skip
    scans = tmp_path / "scans"
    scans.mkdir()
    for path in pictures[:8]:
        shutil.copy(path, scans)
    job, network, graph = opened(package)
    task, batch = make_task(job.task), batch_of(scans, "images", job)
    with torch.no_grad():
        found, wanted = task.infer(Session(graph), batch), task.infer(network, batch)
    same("blood cells: onnxruntime and torch, maps", found, wanted)
    assert isinstance(task, Detection)
    ours, theirs = ([task.found(one) for one in outputs] for outputs in (found, wanted))
    assert all(torch.equal(one.classes, other.classes) for one, other in zip(ours, theirs, strict=True))
    for part in ("boxes", "scores"):
        values = ([getattr(one, part).ravel() for one in objects] for objects in (ours, theirs))
        same(f"blood cells: onnxruntime and torch, {part} of the objects", *map(np.concatenate, values))
