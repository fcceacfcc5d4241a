"""Refused files are listed by name at the site, with a remedy for every reason that the source knows."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client.data.dicom_files import write
from tests.client.data.test_counting import RAMP
from typer.testing import CliRunner

import salus.client.data
from salus.cli import app
from salus.client.config import init_site, open_catalogue
from salus.client.data.remedies import REMEDIES, element_of, nothing_usable, remedy_of
from salus.common.errors import DataError

SOURCE = Path(next(iter(salus.client.data.__path__)))
CODE = re.compile(r"[a-z]+(-[a-z]+)*")
# Of predictions, models and jobs, which have remedies of their own; no file of a data set is refused for these.
ELSEWHERE = {"wrong-modality", "wrong-plane", "oblique"}
ORDINARY = {"picture"}


def codes(tree: ast.AST) -> Iterator[str]:
    """Yield what a module uses as a reason code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            place = {"UnreadableImage": 0, "Quarantined": 1, "refuse": 1}.get(name)
            if place is not None and len(node.args) > place:
                yield from texts(node.args[place])
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id == "reason":
                yield from texts(node.value)
            elif node.targets[0].id == "REASONS" and isinstance(node.value, ast.Dict):
                yield from (code for key in node.value.keys if key is not None for code in texts(key))
            elif isinstance(node.value, ast.Tuple) and len(node.value.elts) == 2:
                words = [list(texts(part)) for part in node.value.elts]
                if all(words) and " " in words[1][0]:
                    yield words[0][0]


def texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)


def test_every_reason_has_a_remedy() -> None:
    found = {
        code
        for path in sorted(SOURCE.rglob("*.py"))
        for code in codes(ast.parse(path.read_text(encoding="utf-8")))
        if CODE.fullmatch(code)
    }
    from salus.client.data.dicom.kinds import REASONS

    found |= set(REASONS)
    assert len(found) > 60  # the scan finds them
    assert {"burned-in", "link", "same-place", "listed-twice", "label-without-image", "whole-slide"} <= found | set(
        REMEDIES
    )
    without = found - set(REMEDIES) - ELSEWHERE - ORDINARY
    assert not without, f"add a sentence to client/data/remedies.py for {sorted(without)}"


def test_the_scan_sees_a_new_code() -> None:
    source = 'NEW = ("new-code", "a detail of words")\nraise UnreadableImage("other-code" if x else "third-code", "d")'
    assert set(codes(ast.parse(source))) == {"new-code", "other-code", "third-code"}
    assert remedy_of("new-code")


@pytest.mark.parametrize("code", sorted(REMEDIES))
def test_remedies_are_sentences(code: str) -> None:
    assert CODE.fullmatch(code)
    assert re.fullmatch(r"[A-Z][^\n]+\.", REMEDIES[code])


def test_the_element_that_a_detail_names_is_found() -> None:
    assert element_of("PixelSpacing is not understood") == "PixelSpacing"
    assert element_of("a slice without ImagePositionPatient belongs to no volume") == "ImagePositionPatient"
    assert element_of("JohnDoe has no element") == ""


def test_refused_files_are_listed_by_name_and_sealed(tmp_path: Path) -> None:
    site, data = tmp_path / "site", tmp_path / "data"
    data.mkdir()
    init_site(site, "S")
    write(data / "good.dcm", RAMP)
    write(data / "DOE-JOHN.dcm", RAMP, PatientID="P9")
    (data / "JANE.dcm").write_bytes(b"x" * 500)
    (data / "[red]\x1b[2J\nforged.dcm: fine").write_bytes(b"x" * 500)  # not even a line of its own
    (data / "labels.csv").write_text("PatientID,label\nP1,yes\nNOBODY,no\n")
    assert CliRunner().invoke(app, ["dataset", "add", str(site), "x", str(data), "--yes"]).exit_code == 0
    listed = CliRunner().invoke(app, ["dataset", "refused", str(site), "x"]).output
    assert "DOE-JOHN.dcm: unlabelled" in listed
    assert "JANE.dcm: not-dicom" in listed
    assert "labels.csv" not in listed
    assert "[red]\\x1b[2J\\nforged.dcm: fine: not-dicom" in listed.replace("\\x0a", "\\n")
    assert not any(line.startswith("forged") for line in listed.splitlines())
    plain = json.loads(CliRunner().invoke(app, ["dataset", "refused", str(site), "x", "--all", "--json"]).output)
    assert plain["counts"] == {"label-without-image": 1, "not-dicom": 2, "set-aside": 1, "unlabelled": 1}
    assert set(plain["remedies"]) == set(plain["counts"])
    assert {item["file"] for item in plain["files"]} == {
        "DOE-JOHN.dcm", "JANE.dcm", "labels.csv", "labels.csv: PatientID NOBODY",
        "[red]\x1b[2J\nforged.dcm: fine",
    }  # fmt: skip
    few = CliRunner().invoke(app, ["dataset", "refused", str(site), "x", "--limit", "1"]).output
    assert "2 more" in few
    one = CliRunner().invoke(app, ["dataset", "refused", str(site), "x", "--reason", "not-dicom"]).output
    assert "JANE.dcm" in one
    assert "DOE-JOHN" not in one
    held = b"".join(path.read_bytes() for path in site.rglob("*") if path.is_file())
    assert b"DOE-JOHN" not in held
    assert b"JANE.dcm" not in held
    checked = CliRunner().invoke(app, ["dataset", "check", str(site), "x"]).output
    assert "salus dataset refused" in checked
    assert "DOE-JOHN" not in checked
    unknown = CliRunner().invoke(app, ["dataset", "refused", str(site), "y"]).exception
    assert isinstance(unknown, DataError)
    assert open_catalogue(site).unused("x")["unlabelled"] == 1


def test_an_empty_data_set_is_refused_with_the_number_of_files_and_what_is_wrong() -> None:
    """60 images, 60 rows and 4 lists were once said to be 124 files that could not be used."""
    names = nothing_usable({"unlabelled": 60, "label-without-image": 60, "set-aside": 4})
    assert "files not used: 60 unlabelled." in str(names)
    assert "None of the 60 rows of the label file belongs to a file here" in str(names)
    assert REMEDIES["unlabelled"] in str(nothing_usable({"unlabelled": 60}))
    assert REMEDIES["not-dicom"] in str(nothing_usable({"not-dicom": 3, "label-without-image": 2}))
    several = str(nothing_usable({"no-suv": 2, "clip": 1}))
    assert "files not used: 1 clip, 2 no-suv." in several
    assert f"clip: {REMEDIES['clip']} no-suv: {REMEDIES['no-suv']}" in several
    assert "Check the path" in str(nothing_usable(dict.fromkeys(("dose", "plan", "report", "clip"), 1)))
    assert "files not used: none." in str(nothing_usable({}))
