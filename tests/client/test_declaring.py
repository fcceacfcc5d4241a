"""The screens of `salus dataset`: what an operator is shown before anything is public, and what a wrong name or word gives."""

import json
from pathlib import Path

import pytest
from tests.builders import write_npz
from tests.cli import Result, salus

from salus.client.commands.declaring import remarks
from salus.client.config import init_site, open_catalogue
from salus.client.data.declaration import Proposal
from salus.common.declaration import Declaration, DeclaredTarget


@pytest.fixture
def site(tmp_path: Path) -> Path:
    init_site(tmp_path / "site", "S")
    write_npz(tmp_path / "toy.npz")
    return tmp_path / "site"


def good(*words: object) -> str:
    result = salus(*words)
    assert result.returncode == 0, result.stderr
    return result.stdout


def one_line(result: Result, code: int) -> str:
    assert result.returncode == code
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    return line


def test_nothing_is_public_until_it_is_confirmed(site: Path, tmp_path: Path) -> None:
    shown = good("dataset", "add", site, "toy", tmp_path / "toy.npz")
    assert "Not declared: every job on toy is refused" in shown
    assert open_catalogue(site).declarations.all() == {"toy": None}
    assert good("dataset", "declare", site, "toy", "--json").strip() == "null"
    good("dataset", "declare", site, "toy", "--show", "--yes")
    assert open_catalogue(site).declarations.all() == {"toy": None}
    assert "Declared." in good("dataset", "declare", site, "toy", "--min-patients", "7", "--yes")
    assert "already has this declaration" in good("dataset", "declare", site, "toy", "--yes")
    assert json.loads(good("dataset", "declare", site, "toy", "--json"))["min_patients"] == 7
    assert "at least 7" in good("dataset", "show", site, "toy")


def test_a_declaration_with_names_says_that_the_labels_are_numbers(site: Path, tmp_path: Path) -> None:
    good("dataset", "add", site, "toy", tmp_path / "toy.npz", "--yes")
    assert not json.loads(good("dataset", "declare", site, "toy", "--json"))["numbered"], (
        "0 and 1 are themselves declared"
    )
    shown = good("dataset", "declare", site, "toy", "--classes", "no,yes", "--yes")
    assert "0 stands for the first class" in shown
    assert json.loads(good("dataset", "declare", site, "toy", "--json"))["numbered"]


@pytest.mark.parametrize(
    "command", [("add",), ("import", "--labels", "l.csv"), ("receive", "--labels", "l.csv", "--sender", "M")]
)
def test_a_name_that_leads_out_of_the_folder_is_refused_everywhere(
    site: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """It wrote a page outside the site's folder."""
    (tmp_path / "l.csv").write_text("PatientID,label\nP1,a\n")
    before = sorted(path for path in tmp_path.rglob("*") if site not in path.parents)
    source = [] if command[0] == "receive" else [tmp_path if command[0] == "import" else tmp_path / "toy.npz"]
    words = ["dataset", command[0], site, "../../etc", *source, *command[1:]]
    assert "'../../etc'" in one_line(salus(*words), 20)
    assert "'../../etc'" in one_line(salus("dataset", "check", site, "../../etc"), 20)
    assert sorted(path for path in tmp_path.rglob("*") if site not in path.parents) == before


def test_labels_outside_the_classes_are_on_the_first_screen(site: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("age,label\n" + "".join(f"{n},{'yess' if n == 3 else 'yes'}\n" for n in range(30)))
    shown = " ".join(good("dataset", "add", site, "t", tmp_path / "t.csv", "--yes").split())
    assert "1 images have labels that are not declared: 'yess' (1)" in shown
    assert open_catalogue(site).declarations.all()["t"].classes == ("yes",)  # type: ignore[union-attr]


def test_a_data_set_that_is_not_there_is_one_line(site: Path) -> None:
    assert "salus dataset list" in one_line(salus("dataset", "declare", site, "nothing"), 20)
    assert "--units" in one_line(salus("dataset", "declare", site, "nothing", "--units", "age"), 11)


def test_an_operator_is_told_that_the_structures_of_a_mask_are_numbers() -> None:
    targets = (DeclaredTarget(name="mask", kind="mask", names=("1", "2")),)
    declared = Declaration(kind="images", annotations=("mask",), targets=targets)
    said = " ".join(remarks(declared, Proposal(declared, {}, 10)))
    assert "The structures of 'mask' are numbers" in said
    named = declared.model_copy(update={"targets": (targets[0].model_copy(update={"names": ("liver",)}),)})
    assert "numbers" not in " ".join(remarks(named, Proposal(named, {}, 10)))
