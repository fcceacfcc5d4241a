"""Outlines: what a coordinator without torch is given of a job's network; and what it computes without torch."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from tests.builders import job_text, tiny_job
from tests.cli import salus
from tests.starts import started_job, trained_weights

from salus.common.canonical import canonical_json, u32
from salus.common.errors import JobError, SalusError, StartError
from salus.common.job import Job
from salus.common.optional_torch import _NoTorch
from salus.common.start.applying import first_network
from salus.common.start.weights import decode
from salus.common.tensors import encode_tensors
from salus.common.vectors import frozen_of, layout_of, read_parameters
from salus.server.checks import check_job
from salus.server.outline import Outline, Outlines, outline_of, read_outline

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = ROOT / "tests" / "without_torch"


def written(job: Job, tensors: dict[str, np.ndarray], **head: object) -> bytes:
    """Return an outline's file with any content."""
    data = canonical_json({"format": 1, "job": job.digest().hex(), "trained": list(tensors), **head})
    return u32(len(data)) + data + encode_tensors(tensors)


def plain(job: Job) -> dict[str, np.ndarray]:
    outline = outline_of(job, None)
    return outline.layout.unflatten(outline.first)


def test_an_outline_is_the_network_that_the_job_begins_with() -> None:
    job = tiny_job(model="cnn")
    found = read_outline(outline_of(job, None).encode(job), job)
    network = first_network(job, None)
    assert found.layout == layout_of(network)
    assert np.array_equal(found.first, read_parameters(network, found.layout))
    assert not found.frozen
    assert found.start is None
    check_job(job, 5, found)


def test_an_outline_of_a_job_with_a_start_holds_what_sites_take_of_it() -> None:
    weights = trained_weights()
    job = started_job(weights)
    found = read_outline(outline_of(job, weights).encode(job), job)
    network = first_network(job, weights)
    assert np.array_equal(found.first, read_parameters(network, found.layout))
    assert {name: values.tobytes() for name, values in found.frozen.items()} == {
        name: values.tobytes() for name, values in frozen_of(network).items()
    }
    assert found.start is not None
    assert found.start.digest == weights.digest
    taken = found.start.taken or ()
    specs = [line.spec for name in taken for line in found.start.lines if line.name == name]
    assert decode(found.start.encode(taken), weights.digest, specs).tensors.keys() == set(taken)


def test_an_outline_of_another_start_is_refused() -> None:
    weights = trained_weights()
    job, other = started_job(weights), trained_weights(8)
    data = Outline(*_parts(job, weights), other).encode(job)
    with pytest.raises(StartError, match="the job names"):
        read_outline(data, job)


def _parts(job: Job, weights: object) -> tuple[object, ...]:
    outline = outline_of(job, weights)  # type: ignore[arg-type]
    return outline.layout, outline.first, outline.frozen


@pytest.mark.parametrize(
    "damage",
    [
        lambda job, data: b"",
        lambda job, data: b"\xff\xff\xff\xff" + data,
        lambda job, data: data[:-1],
        lambda job, data: data + b"0",
        lambda job, data: b"\0\0\0\5[[[[[" + data,
        lambda job, data: written(tiny_job(rounds=9), plain(job)),
        lambda job, data: written(job, plain(job), trained=[]),
        lambda job, data: written(job, plain(job), trained=["nothing"]),
        lambda job, data: written(job, plain(job), taken=["nothing"]),
        lambda job, data: written(job, plain(job), unknown=1),
        lambda job, data: written(job, {name: values * np.float32("nan") for name, values in plain(job).items()}),
        lambda job, data: written(job, {name: values.astype(np.float64) for name, values in plain(job).items()}),
    ],
)
def test_a_damaged_outline_is_refused_and_not_kept(damage: object, tmp_path: Path) -> None:
    job = tiny_job()
    bad = damage(job, outline_of(job, None).encode(job))  # type: ignore[operator]
    with pytest.raises(JobError):
        Outlines(tmp_path).put(job, bad)
    assert Outlines(tmp_path).of(job) is None


def test_the_command_writes_what_the_coordinator_keeps(tmp_path: Path) -> None:
    path, output = tmp_path / "job.toml", tmp_path / "job.outline"
    path.write_text(job_text())
    done = salus("job", "outline", path, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "--outline" in done.stdout
    store = Outlines(tmp_path / "outlines")
    store.put(tiny_job(), output.read_bytes())
    found = store.of(tiny_job())
    assert found is not None
    assert found.layout.size == layout_of(first_network(tiny_job(), None)).size


def test_a_stand_in_for_torch_can_be_named_and_derived_from_and_nothing_else() -> None:
    torch = _NoTorch("torch")

    class Network(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, x: "torch.Tensor | None") -> None: ...  # type: ignore[name-defined]

    assert torch.Tensor is torch.Tensor
    assert not isinstance(1, torch.Tensor)
    for call in (Network, torch.zeros, torch.nn.functional.relu):
        with pytest.raises(SalusError, match="no torch"):
            call()
    with pytest.raises(AttributeError):
        torch.__wrapped__  # noqa: B018


def kind_of(path: Path) -> str:
    job = tomllib.loads(path.read_text())
    return str(job["statistics"]["kind"] if "statistics" in job else job["task"]["kind"])


JOBS = sorted((ROOT / "simulations" / "jobs").glob("*.toml"))
ONE_OF_EACH_KIND = sorted({kind_of(path): path for path in JOBS}.values())


@pytest.mark.parametrize("jobs", [ONE_OF_EACH_KIND, pytest.param(JOBS, marks=pytest.mark.slow)])
def test_without_torch_a_coordinator_computes_the_same_of_sample_jobs(jobs: list[Path]) -> None:
    commands = [
        subprocess.Popen(
            [sys.executable, WITHOUT_TORCH / "coordinate.py", *jobs],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        for path in (str(WITHOUT_TORCH), "")
    ]
    bare, full = (command.communicate()[0] for command in commands)
    assert [command.returncode for command in commands] == [0, 0]
    assert len(bare.splitlines()) == len(jobs)
    assert bare == full
