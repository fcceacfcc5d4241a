"""`salus explain` from the command line: pictures, tables, models from sums, what is refused, and what the page shows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cli import Result, salus
from tests.client.predicting.test_from_sums import COORDINATOR, write_table
from tests.client.predicting.test_from_sums import write_job as write_sums_job
from tests.client.predicting.test_from_sums import write_model as write_sums_model
from tests.client.predicting.worlds import write_job, write_model
from tests.common.sums.tables import rows

QUICK = ("--set", "lime.samples=16", "--set", "kernel-shap.samples=16", "--set", "occlusion.windows=2")


def write_scans(folder: Path, count: int = 6, name: str = "{}.png") -> None:
    """Write pictures of 8 x 8, by turns dark and bright, with labels of which the last is wrong."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["file,label,PatientID"]
    for number in range(count):
        values = rng.integers(0, 60, (8, 8)) + (180 if number % 2 else 0)
        Image.fromarray(values.astype(np.uint8)).save(folder / name.format(number))
        label = "bright" if number % 2 and number != count - 1 else "dark"
        lines.append(f'"{name.format(number)}",{label},P{number}')
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def explained(folder: Path, *words: object) -> Result:
    quick = () if "--methods" in words else QUICK
    return salus("explain", "model.safetensors", "--out", "out", *words, "--job", "job.toml", *quick, cwd=folder)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_model(tmp_path / "model.safetensors", write_job(tmp_path / "job.toml"))
    return tmp_path


def summary_of(result: Result) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_pictures_are_explained_with_truth_counterexamples_and_checks(place: Path) -> None:
    write_scans(place / "scans")
    summary = summary_of(explained(place, "scans", "--cases", "4", "--json"))
    assert (place / "out" / "explain.json").read_text() == json.dumps(summary, indent=1) + "\n"
    assert len(summary["cases"]) == 4
    assert set(summary["methods"]) == {"gradient-shap", "integrated-gradients", "kernel-shap", "lime", "occlusion"}
    assert "keeps the places" in summary["not_applied"]["grad-cam"]
    assert "no trees" in summary["not_applied"]["tree-shap"]
    wrong = [case for case in summary["cases"] if case["truth"] != case["said"]]
    assert [case["item"] for case in wrong] == ["5.png"]  # the wrong answer is among the cases
    for case in summary["cases"]:
        assert case["counterexamples"]
        assert all(other["truth"] != case["truth"] for other in case["counterexamples"])
    for method in summary["methods"].values():
        assert 0 <= method["deletion"] <= 1
        assert 0 <= method["random_weights"] <= 1
        assert method["pointing_game"] is None  # nothing is annotated
    page = (place / "out" / "explain.html").read_text()
    assert "The model is wrong" in page
    assert '<meta name="viewport"' in page
    assert page.count('<div class="table"><table>') == page.count("</table></div>") == page.count("<table>") > 0
    assert "Tree SHAP was not applied: the model has no trees" in page
    assert str(place) not in page
    assert (place / "out" / "explain.html").stat().st_mode & 0o077 == 0
    assert (place / "out" / "explain.json").stat().st_mode & 0o077 == 0


def test_names_of_files_are_no_markup(place: Path) -> None:
    write_scans(place / "scans", 2, "{}<img src=x onerror=alert(1)>[bold].png")
    result = explained(place, "scans", "--cases", "1", "--methods", "occlusion")
    assert result.returncode == 0, result.stderr
    page = (place / "out" / "explain.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_a_folder_without_labels_is_explained_too(place: Path) -> None:
    write_scans(place / "scans")
    (place / "scans" / "labels.csv").unlink()
    (place / "scans" / "broken.png").write_bytes(b"no picture")
    summary = summary_of(explained(place, "scans", "--json", "--methods", "integrated-gradients"))
    assert [one["reason"] for one in summary["refused"]] == ["damaged"]
    assert len(summary["cases"]) == 6
    assert {case["truth"] for case in summary["cases"]} == {None}
    assert all(c["said"] != case["said"] for case in summary["cases"] for c in case["counterexamples"])


def test_a_label_file_that_cannot_be_used_is_said_and_costs_the_truth_only(place: Path) -> None:
    write_scans(place / "scans", 2)
    (place / "scans" / "labels.csv").write_text("name,class\n0.png,dark\n")
    summary = summary_of(explained(place, "scans", "--json", "--methods", "occlusion"))
    assert summary["labels_not_used"]
    assert {case["truth"] for case in summary["cases"]} == {None}
    assert "The label file was not used" in (place / "out" / "explain.html").read_text()


def test_flat_pictures_a_single_one_and_a_row_of_extremes_end_no_run(place: Path) -> None:
    (place / "flat").mkdir()
    Image.new("L", (8, 8), 200).save(place / "flat" / "only.png")
    summary = summary_of(explained(place, "flat", "--json"))
    assert len(summary["cases"]) == 1
    page = (place / "out" / "explain.html").read_text()
    assert "nothing is marked here" in page
    assert "Hardly better than random orders" in page
    assert "scale to 0<" not in page
    assert summary["cases"][0]["counterexamples"] == []


def test_a_registered_data_set_is_explained_by_its_name(place: Path) -> None:
    write_scans(place / "scans")
    for words in (("client", "init", "site", "--name", "S"), ("dataset", "add", "site", "toy", "scans", "--yes")):
        assert salus(*words, cwd=place).returncode == 0
    summary = summary_of(explained(place, "toy", "--site", "site", "--json", "--methods", "occlusion", "--cases", "2"))
    assert {case["truth"] for case in summary["cases"]} <= {"dark", "bright"}


@pytest.mark.parametrize("kind", ["boosting", "forest", "logistic", "cox"])
def test_models_from_sums_are_explained_by_column(kind: str, tmp_path: Path) -> None:
    from tests.client.predicting.test_from_sums import with_outcomes

    job = write_sums_job(tmp_path / "job.toml", kind)
    write_sums_model(tmp_path / "model.json", job, with_outcomes(rows(60)))
    write_table(tmp_path / "people.csv", rows(12, seed=5))
    result = salus(
        "explain", "model.json", "people.csv", "--job", "job.toml", "--signed-by", COORDINATOR.public_key.hex(),
        *QUICK, "--out", "out", "--json", "--cases", "12", cwd=tmp_path,
    )  # fmt: skip
    summary = summary_of(result)
    assert "gradient" in summary["not_applied"]["integrated-gradients"]
    trees = kind in ("boosting", "forest")
    assert ("tree-shap" in summary["methods"]) == trees
    for case in summary["cases"]:
        for found in case["maps"].values():
            assert len(found["columns"]) == 3
            assert all(np.isfinite(value) for value in found["columns"].values())
        assert case["maps"]["kernel-shap"]["random_weights"] is None
    assert "missing" in (tmp_path / "out" / "explain.html").read_text() or not trees


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("absent",), 20, "found nothing"),
        ((), 11, "either a folder"),
        (("scans", "--dataset", "toy"), 11, "either a folder"),
        (("scans", "--methods", "lime,magic"), 11, "'magic'"),
        (("scans", "--methods", "lime", "--set", "lime.samples=1e99"), 11, "samples"),
        (("scans", "--methods", "lime", "--set", "lime=3"), 11, "method.key=value"),
        (("scans", "--set", "lime.cells=4", "--methods", "occlusion"), 11, "not among --methods"),
        (("scans", "--out", "job.toml"), 11, "is a file"),
        (("scans", "--cases", "0"), 2, "cases"),
        (("scans", "--option", "labels"), 20, "key=value"),
    ],
)
def test_what_cannot_be_done_is_refused(place: Path, words: tuple[str, ...], code: int, message: str) -> None:
    write_scans(place / "scans", 2)
    result = explained(place, *words)
    assert result.returncode == code
    assert message in result.stderr.replace("\n", " ")


def test_tasks_of_several_images_are_refused_by_name(place: Path) -> None:
    text = (place / "job.toml").read_text().replace('"classification"', '"gan"').replace('"logistic"', '"gan"')
    (place / "job.toml").write_text(text.replace("[8, 8]", "[16, 16]"))
    write_scans(place / "scans", 2)
    result = explained(place, "scans")
    assert result.returncode != 0
    assert "generate" in result.stderr


def test_a_missing_package_is_one_sentence_with_the_command(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    write_scans(place / "scans", 2)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    result = explained(place, "scans", "--methods", "occlusion")
    assert result.returncode == 11
    assert "pip install 'salus[explain]'" in " ".join(result.stderr.split())
    monkeypatch.setitem(sys.modules, "xgboost", None)
    summary = explained(place, "scans", "--json")
    assert summary.returncode == 0, summary.stderr
    assert "pip install" in json.loads(summary.stdout)["not_applied"]["occlusion"]
