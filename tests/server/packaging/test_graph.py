"""A network as ONNX gives the numbers of torch, for any number of items; what cannot be exported is refused by name."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import onnxruntime
import pytest
import tomli_w
import torch
from monai.bundle import ConfigParser
from PIL import Image
from tests.cli import salus
from tests.packages import consortium_key, content, write_folder

from salus.client.data.dicom.isolation import Decoding
from salus.client.data.examples import example_of
from salus.client.data.sources.settings import SourceOptions
from salus.client.predicting.inputs import from_folder
from salus.common.batch import stacked
from salus.common.errors import ConfigError, JobError
from salus.common.job import Job, parse_job
from salus.common.models import build_model
from salus.common.package.checking import checked_package
from salus.common.package.model import network_of
from salus.common.tasks import make_task
from salus.server.packaging import graph
from salus.server.packaging.bundle import bundle_of
from salus.server.packaging.graph import OPSET, TOLERANCE, Graph, to_onnx


def job(kind: str, model: str, shape: list[int], transforms: Sequence[object] = (), **settings: object) -> Job:
    more = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    steps = tomli_w.dumps({"task": {"transforms": transforms}}) if transforms else ""
    return parse_job(f"""
[job]
name = "graph"
rounds = 1
min_sites = 2
[task]
kind = "{kind}"
model = "{model}"
dataset = "d"
classes = ["a", "b"]
shape = {shape}
{more}
{steps.replace("[task]", "")}
[privacy]
noise = "none"
""")


def agree(job: Job, shape: tuple[int, ...], *, any_size: bool) -> None:
    """Compare with torch for numbers of items, and sizes, that the export itself does not try."""
    network = build_model(job.task, 0).eval()
    found = to_onnx(job, network)
    assert found.facts["opset"] == OPSET
    assert found.facts["largest_difference"] <= TOLERANCE
    sides = ("depth", "height", "width")[-len(shape) + 1 :] if any_size else shape[1:]
    assert found.facts["inputs"][0]["shape"] == ["batch", shape[0], *sides]
    assert found.facts["spatial_size"] == ("any size that the network takes" if any_size else "fixed")
    session = onnxruntime.InferenceSession(found.data, providers=["CPUExecutionProvider"])
    larger = tuple(side + 16 * (place > 0) * (1 + place % 2) for place, side in enumerate(shape))
    for items, size in [(2, shape), (5, shape), *([(2, larger)] if any_size else [])]:
        values = torch.randn(items, *size, generator=torch.Generator().manual_seed(items))
        with torch.no_grad():
            wanted = network(values).numpy()
        (given,) = session.run(None, {session.get_inputs()[0].name: values.numpy()})
        np.testing.assert_allclose(given, wanted, atol=TOLERANCE * max(1, np.abs(wanted).max()))


def test_a_network_in_a_package_is_also_onnx(plain_run: Path, tmp_path: Path) -> None:
    made = salus("model", "export", plain_run, tmp_path / "package", "--onnx", "--bundle")
    assert made.returncode == 0, made.stderr
    with checked_package(tmp_path / "package.zip", consortium_key(plain_run)) as package:
        network, data = network_of(package), package.read("onnx/model.onnx")
        assert package.json("onnx/onnx.json")["largest_difference"] <= TOLERANCE
    values = torch.randn(4, 1, 8, 8)
    (given,) = onnxruntime.InferenceSession(data).run(None, {"image": values.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(given, network(values).numpy(), atol=TOLERANCE)
    assert "onnx/model.onnx" in content(tmp_path / "package")
    scans = pictures(tmp_path / "scans")
    parser = ConfigParser()
    parser.read_config(tmp_path / "package" / "bundle" / "configs" / "inference.json")
    parser["bundle_root"], parser["dataset_dir"] = str(tmp_path / "package" / "bundle"), str(scans)
    parser["output_dir"] = str(tmp_path / "outputs")
    parser.parse()
    parser.get_parsed_content("run")
    same_as_salus(tmp_path, scans)


def pictures(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (11, 9), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def same_as_salus(place: Path, scans: Path) -> None:
    """Compare the probabilities of the bundle's outputs with those of `salus predict`."""
    predicted = salus("predict", place / "package", scans, "--output", place / "predictions", "--json")
    assert predicted.returncode == 0, predicted.stderr
    for item in json.loads(predicted.stdout)["items"]:
        logits = torch.from_numpy(np.load(place / "outputs" / f"{item['item']}.npy"))
        np.testing.assert_allclose(list(item["probabilities"].values()), torch.softmax(logits, 0), atol=TOLERANCE)


@pytest.mark.slow
def test_the_runner_of_monai_gives_the_outputs_of_salus_for_volumes(tmp_path: Path) -> None:
    """A volume on axes of its own, through percentiles and a resize, as on the hippocampus."""
    steps = [{"kind": "percentiles", "low": 1.0, "high": 99.0}, {"kind": "resize"}]
    segmenting = job("segmentation", "unet", [16, 16, 8], transforms=steps)
    network = build_model(segmenting.task, 0).eval()
    found = to_onnx(segmenting, network)
    described, config = bundle_of(segmenting, found)
    assert described["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "a", "2": "b"}
    files = {
        "configs/inference.json": json.dumps(config).encode(),
        "configs/metadata.json": json.dumps(described).encode(),
    }
    root = write_folder({**files, "models/model.onnx": found.data}, tmp_path / "bundle")
    (tmp_path / "scans").mkdir()
    values = np.random.default_rng(0).normal(100, 20, (9, 12, 14)).astype(np.float32)
    affine = np.diag([1.0, -1.5, 2.0, 1.0])[[0, 2, 1, 3]]  # its axes: right, up, back
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "scans" / "a.nii.gz")
    run = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", root / "configs" / "inference.json",
         "--meta_file", root / "configs" / "metadata.json", "--bundle_root", root,
         "--dataset_dir", tmp_path / "scans", "--output_dir", tmp_path / "outputs"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    inputs = from_folder(tmp_path / "scans", "nifti", SourceOptions(), Decoding(), volumes=True)
    task = make_task(segmenting.task)
    example = example_of(inputs.source.load(inputs.found[0].key), segmenting.task, "", measured=True)
    batch = stacked([task.prepare(task.chain.traced(example)[-1])])
    with torch.no_grad():
        wanted = task.infer(network, batch)[0].numpy()
    np.testing.assert_allclose(
        np.load(tmp_path / "outputs" / "a.nii.gz.npy"), wanted, atol=TOLERANCE * np.abs(wanted).max()
    )


def test_what_monai_cannot_do_is_refused_by_name() -> None:
    facts = {"inputs": [{"name": "image"}], "outputs": [{}]}
    turned = job("classification", "cnn", [16, 16, 16], transforms=[{"kind": "orientation"}, {"kind": "resize"}])
    with pytest.raises(JobError, match="the transform 'orientation', as this job sets it, has no equal in MONAI"):
        bundle_of(turned, Graph(b"", facts))
    flipped = job("segmentation", "unet", [16, 16], test_flips=["x"])
    with pytest.raises(JobError, match="means over flipped images"):
        bundle_of(flipped, Graph(b"", facts))
    with pytest.raises(JobError, match="more or other than one image"):
        bundle_of(flipped, Graph(b"", {**facts, "inputs": [{"name": "row"}]}))


def test_a_detector_is_exported() -> None:
    agree(job("detection", "centernet", [32, 32], most_objects=4), (1, 32, 32), any_size=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "model", "shape", "any_size"),
    [
        ("classification", "cnn", [16, 16, 16], True),
        ("classification", "resnet18", [32, 32], True),
        ("classification", "vit", [32, 32], False),
        ("segmentation", "unet", [16, 16], True),
        ("segmentation", "unet", [16, 16, 16], True),
        ("detection", "retinanet", [32, 32], True),
    ],
)
def test_networks_are_exported(kind: str, model: str, shape: list[int], any_size: bool) -> None:
    agree(job(kind, model, shape), (1, *shape), any_size=any_size)


def test_what_is_no_graph_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    generating = job("diffusion", "diffusion-unet", [16, 16])
    with pytest.raises(JobError, match="'diffusion-unet' cannot be written as ONNX: images are generated by many"):
        to_onnx(generating, build_model(generating.task, 0).eval())
    monkeypatch.setattr(graph, "TOLERANCE", -1.0)  # nothing is near enough
    small = job("classification", "logistic", [8, 8])
    with pytest.raises(JobError, match="'logistic' cannot be written as ONNX: the graph differs from torch by"):
        to_onnx(small, build_model(small.task, 0).eval())


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    small = job("classification", "logistic", [8, 8])
    with pytest.raises(ConfigError, match=r"pip install 'salus\[onnx\]'"):
        to_onnx(small, build_model(small.task, 0).eval())
