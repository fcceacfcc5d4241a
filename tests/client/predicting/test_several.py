"""Predictions of models that take all images of a patient together: one line for each patient, as a site evaluates it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tests.cli import Result, salus
from tests.client.predicting.worlds import write_pictures

from salus.client.predicting.inputs import Input
from salus.client.predicting.run import check_wanted
from salus.client.predicting.units import units_of
from salus.common.errors import JobError
from salus.common.job import load_job, parse_job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.tasks.several import several_of
from salus.common.vectors import layout_of, read_parameters

JOB = """
[job]
name = "s"
rounds = 1
[task]
kind = "{kind}"
model = "{model}"
dataset = "toy"
classes = ["a", "b"]
shape = [8, 8]
most_images = 3
feature_width = 8
[privacy]
noise = "none"
"""


def world(folder: Path, kind: str = "sequence", model: str = "gru") -> torch.nn.Module:
    (folder / "job.toml").write_text(JOB.format(kind=kind, model=model))
    network = build_model(load_job(folder / "job.toml").task, 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    layout = layout_of(network)
    save_file(
        {name: np.array(value) for name, value in layout.unflatten(read_parameters(network, layout)).items()},
        folder / "model.safetensors",
    )
    return network.eval()


def predicted(folder: Path, *words: object) -> Result:
    return salus("predict", "model.safetensors", *words, "--job", "job.toml", "--json", cwd=folder)


def image(grey: int) -> torch.Tensor:
    return torch.full((1, 8, 8), grey / 255 * 2 - 1)  # as the default transforms give it


def test_each_folder_of_pictures_is_a_patient_and_an_unreadable_one_costs_only_itself(tmp_path: Path) -> None:
    network = world(tmp_path)
    write_pictures(tmp_path / "scans", {"p/1.png": 10, "p/2.png": 250, "q/1.png": 250, "r/1.png": 0})
    (tmp_path / "scans" / "r" / "1.png").write_bytes(b"no picture")
    (tmp_path / "scans" / "q" / "2.png").write_bytes(b"no picture")
    result = predicted(tmp_path, "scans")
    assert result.returncode == 20, result.stderr
    summary = json.loads(result.stdout)
    assert sorted(one["item"] for one in summary["refused"]) == ["q/2.png", "r/1.png"]
    found = {one["item"]: one for one in summary["items"]}
    assert {item: one["values"] for item, one in found.items()} == {
        "p/1.png": {"images": 2.0},
        "q/1.png": {"images": 1.0},
    }
    task = make_task(load_job(tmp_path / "job.toml").task)
    several = several_of(task)
    assert several is not None
    for item, greys in {"p/1.png": (10, 250), "q/1.png": (250,)}.items():
        fields = several.together([{"image": image(g)} for g in greys])
        with torch.inference_mode():
            shares = torch.softmax(network(fields["image"][None], fields["image.there"][None])[0], 0)
        assert found[item]["probabilities"]["b"] == pytest.approx(float(shares[1]), abs=1e-5)
    assert '"b"' not in (tmp_path / "predictions" / "predictions.csv").read_text().splitlines()[0]


def test_a_registered_data_set_is_grouped_by_its_patients(tmp_path: Path) -> None:
    world(tmp_path, "multi-instance", "bag")
    write_pictures(tmp_path / "scans", {f"{n}.png": 20 * n for n in range(6)})
    rows = "".join(f"{n}.png,{'ab'[n % 2]},P{n % 2}\n" for n in range(6))
    (tmp_path / "scans" / "labels.csv").write_text("file,label,PatientID\n" + rows)
    for words in (("client", "init", "site", "--name", "S"), ("dataset", "add", "site", "toy", "scans", "--yes")):
        assert salus(*words, cwd=tmp_path).returncode == 0
    result = predicted(tmp_path, "--site", "site", "--dataset", "toy")
    assert result.returncode == 0, result.stderr
    items = json.loads(result.stdout)["items"]
    assert [one["item"] for one in items] == ["0.png", "1.png"]
    assert [one["values"]["images"] for one in items] == [3.0, 3.0]
    assert "P0" not in result.stdout


def test_a_patient_with_many_images_gets_those_of_training_and_other_images_are_another_unit() -> None:
    several = several_of(make_task(parse_job(JOB.format(kind="sequence", model="gru")).task))
    images = [Input(f"{n}", f"{n}.png", patient="p", sha256=f"{n:064x}") for n in range(6)]
    (unit,), (again,) = units_of(images, several), units_of(images[:-1], several)
    assert len(unit.images) == 3
    assert [int(one.key) for one in unit.images] == sorted(int(one.key) for one in unit.images)
    assert (unit.key == again.key) == (unit.images == again.images)
    assert [unit.item for unit in units_of(images, None)] == [one.item for one in images]


def test_a_report_of_several_studies_is_refused_and_clips_are_predicted_on_one_by_one() -> None:
    job = parse_job(JOB.format(kind="sequence", model="gru"))
    check_wanted(job, frozenset())
    with pytest.raises(JobError, match="one study"):
        check_wanted(job, frozenset({"sr"}))
    clips = JOB.format(kind="sequence", model="gru").replace("[8, 8]", '[3, 8, 8]\nitem = "image"')
    assert several_of(make_task(parse_job(clips.replace("most_images = 3\n", "")).task)) is None
