"""`salus generate`: files that say that they are synthetic; models that generate nothing are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from tests.builders import write_npz
from tests.cli import salus
from tests.common.tasks.test_generation import JOB
from typer.testing import CliRunner

from salus.cli import app
from salus.client.copying import copies
from salus.client.data.catalogue import Catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.client.generating import MARK, WORDS, generate
from salus.client.predicting.model import load_model
from salus.client.predicting.run import check_wanted
from salus.common.errors import ConfigError, JobError
from salus.common.job import Job, parse_job
from salus.common.models import build_model

FLAT = 'shape = [6, 5]\nclasses = ["well", "../ill"]'


def saved(folder: Path, more: str = FLAT, kind: str = "vae", model: str = "vae") -> tuple[Job, Path]:
    text = JOB.format(kind=kind, model=model, more=more)
    (folder / "job.toml").write_text(text, encoding="utf-8")
    job = parse_job(text)
    network = build_model(job.task, 0)
    save_file({name: p.detach().numpy() for name, p in network.named_parameters()}, folder / "m.safetensors")
    return job, folder / "m.safetensors"


def test_pictures_say_that_they_are_synthetic_and_follow_from_the_seed(tmp_path: Path) -> None:
    job, path = saved(tmp_path)
    model = load_model(path, job)
    found = generate(job, model, ["../ill", "well"], 2, 3, tmp_path / "a")
    assert {name: len(files) for name, files in found.items()} == {"../ill": 2, "well": 2}
    for name in found["../ill"]:
        with Image.open(tmp_path / "a" / name) as picture:
            assert picture.size == (5, 6)
            assert picture.info["Description"] == WORDS
        assert name.startswith(MARK)
    page = (tmp_path / "a" / "generated.html").read_text(encoding="utf-8")
    assert WORDS in page
    assert page.count("data:image/png") == 4
    generate(job, model, ["../ill", "well"], 2, 3, tmp_path / "b")
    generate(job, model, ["../ill", "well"], 2, 4, tmp_path / "c")
    one, two, other = ((tmp_path / folder / found["well"][0]).read_bytes() for folder in "abc")
    assert one == two != other
    with pytest.raises(ConfigError, match="exists"):
        generate(job, model, ["well"], 1, 0, tmp_path / "a")
    with pytest.raises(JobError, match="no class"):
        generate(job, model, ["other"], 1, 0, tmp_path / "d")


def test_volumes_become_nifti(tmp_path: Path) -> None:
    import nibabel

    job, path = saved(tmp_path, 'shape = [4, 6, 5]\nclasses = ["a", "b"]')
    found = generate(job, load_model(path, job), ["b"], 1, 0, tmp_path / "out")
    volume = nibabel.loadsave.load(tmp_path / "out" / found["b"][0])
    assert volume.shape == (5, 6, 4)
    assert MARK.encode() in bytes(volume.header["descrip"])


def test_the_command_writes_what_it_lists(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    words = [
        "generate",
        str(path),
        "--job",
        str(tmp_path / "job.toml"),
        "--count",
        "1",
        "--out",
        str(tmp_path / "o"),
        "--json",
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    files = [name for names in json.loads(result.stdout).values() for name in names]
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == sorted([*files, "generated.html"])


def test_each_command_refuses_the_models_of_the_other(tmp_path: Path) -> None:
    job, path = saved(tmp_path, 'shape = [8, 8]\nclasses = ["a", "b"]', "classification", "cnn")
    with pytest.raises(JobError, match="generates no images"):
        generate(job, load_model(path, job), ["a"], 1, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    generating, _ = saved(tmp_path)
    with pytest.raises(JobError, match="salus generate"):
        check_wanted(generating, frozenset())


def test_an_operator_learns_whether_images_are_copies_of_the_sites_own(tmp_path: Path) -> None:
    saved(tmp_path, 'shape = [8, 8]\nclasses = ["0", "1"]')
    write_npz(tmp_path / "toy.npz", images=60)
    for words in (("client", "init", "site", "--name", "S"), ("dataset", "add", "site", "toy", "toy.npz", "--yes")):
        assert salus(*words, cwd=tmp_path).returncode == 0
    command = ("generate", "m.safetensors", "--job", "job.toml", "--json")
    result = salus(*command, "--site", "site", "--dataset", "toy", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert {name: found["copies"][name] for name in ("generated", "training", "held_out")} == {
        "generated": 32, "training": 60, "held_out": 60,
    }  # fmt: skip
    assert found["copies"]["expected"] == 0.5
    assert len(found["files"]["0"]) == 16
    assert "--site together with --dataset" in salus(*command, "--dataset", "toy", "--out", "b", cwd=tmp_path).stderr
    assert not (tmp_path / "b").exists()


def test_a_model_that_repeats_training_images_is_suspected(tmp_path: Path) -> None:
    write_npz(tmp_path / "toy.npz", images=60)
    catalogue = Catalogue(tmp_path / "c.sqlite", bytes(range(32)))
    catalogue.add("toy", "medmnist", tmp_path / "toy.npz", SourceOptions())
    job, path = saved(tmp_path, 'shape = [8, 8]\nclasses = ["0", "1"]')
    model = load_model(path, job)
    with np.load(tmp_path / "toy.npz") as arrays:
        known = torch.from_numpy(arrays["train_images"][:, None].astype(np.float32)) / 255 * 2 - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("salus.common.tasks.vae.Vae.generated", lambda *_: known[:40])
        found = copies(catalogue, "toy", job, model, 20, 0)
    assert found["standard_errors"] > 3
    assert found["near"] == 1.0
