"""From a job to a released and verified package, in the commands of README, each with one JSON document on standard output."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli import salus

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "simulations" / "jobs" / "phantom-release.toml"
METHOD = "occlusion"
DAMAGED = 20  # the phantom hospitals have a few damaged files, as every archive has


def answer(folder: Path, *words: object, code: int = 0) -> Any:
    result = salus(*words, cwd=folder)
    assert result.returncode == code, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
def test_the_path_of_the_readme_ends_with_a_released_package(tmp_path: Path) -> None:
    assert salus("phantoms", "phantoms", "--kind", "dicom", cwd=tmp_path).returncode == 0
    ran = answer(tmp_path, "simulate", JOB, "--sites", 5, "--data", "phantoms/dicom", "--output", "run", "--json", "-")
    assert ran["metrics"]["auc"] > 0.9
    assert ran["metrics"]["balanced_accuracy"] > 0.8  # it learns both classes, not only their order
    assert set(ran["subgroups"]["vendor"]["groups"]) == {"PHANTOMA", "PHANTOMB", "other or unknown"}
    made = answer(tmp_path, "model", "export", "run", "package", "--onnx", "--bundle", "--json")
    names = {line["name"] for line in made["files"]}
    assert {"model-card.md", "onnx/model.onnx", "bundle/configs/inference.json"} <= names
    scans = "phantoms/dicom/hospital0"
    said = answer(tmp_path, "predict", "package", scans, "--output", "predictions", "--json", code=DAMAGED)
    assert (said["predicted"], len(said["refused"])) == (240, 1)
    labels = ("--option", "labels=../labels.csv")
    explained = answer(tmp_path, "explain", "package", scans, "--cases", 2, *labels, "--methods", METHOD, "--json")
    assert {case["truth"] for case in explained["cases"]} <= {"healthy", "lesion"}
    # One attack: the others, of which no release depends, run the job many times.
    audited = answer(tmp_path, "audit", "run", "--canaries", 100, "--attacks", "one-run", "--json")
    assert audited["lower_bound"] <= audited["claimed_epsilon"] == 8.0
    released = answer(tmp_path, "release", "run", "--json")
    assert (released["released"], released["path"]) == (True, "package")
    kit = "run/coordinator/trust/kit.json"
    for form in ("package", "package.zip"):
        checked = answer(tmp_path, "verify", form, "--kit", kit, "--json")
        assert checked["pinned"] is True
        assert checked["release"]["package"] == checked["package"]
    shown = salus("verify", "package.zip", cwd=tmp_path)
    assert "an audit found at least" in shown.stdout
