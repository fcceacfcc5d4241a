"""`salus predict` with a package: the same answers as with the model's file and its job, and nothing of a changed one."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from tests.cli import salus
from tests.packages import content, export, plain_text, write_folder

from salus.server.packaging.runs import open_run


def pictures(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def test_a_package_predicts_as_its_model_and_job_do(plain_run: Path, tmp_path: Path) -> None:
    package, run = export(plain_run, tmp_path / "package"), open_run(plain_run)
    scans = pictures(tmp_path / "scans")
    whole = salus("predict", tmp_path / "package.zip", scans, "--output", tmp_path / "one", "--json")
    assert whole.returncode == 0, whole.stderr
    (tmp_path / "job.toml").write_text(plain_text())
    apart = salus("predict", run.model, scans, "--job", tmp_path / "job.toml", "--output", tmp_path / "two", "--json")
    assert apart.returncode == 0, apart.stderr
    found, other = json.loads(whole.stdout), json.loads(apart.stdout)
    assert found["items"] == other["items"]
    assert found["job_sha256"] == other["job_sha256"] == run.job.digest().hex()
    assert salus("predict", package, scans, "--job", tmp_path / "job.toml").returncode == 11
    bare = salus("predict", run.model, scans)
    assert bare.returncode == 11
    assert "--job" in bare.stderr
    folder = salus("predict", scans, scans)
    assert folder.returncode == 11
    assert "it is no package" in " ".join(folder.stderr.split())


def test_a_mistyped_path_of_a_package_is_named(tmp_path: Path) -> None:
    for words in (("predict", "no.zip", "scans"), ("explain", "no.zip", "scans"), ("verify", "no.zip")):
        result = salus(*words, cwd=tmp_path)
        assert result.returncode == 11
        assert "no file or folder 'no.zip'" in " ".join(result.stderr.split())


def test_a_changed_package_predicts_nothing(plain_run: Path, tmp_path: Path) -> None:
    files = content(export(plain_run, tmp_path / "package"))
    model = bytearray(files["model.safetensors"])
    model[-1] ^= 1
    changed = write_folder({**files, "model.safetensors": bytes(model)}, tmp_path / "changed")
    result = salus("predict", changed, pictures(tmp_path / "scans"), "--output", tmp_path / "out")
    assert result.returncode == 14
    assert "model.safetensors is not the file that the coordinator signed" in result.stderr
    assert not (tmp_path / "out").exists()
