"""Label files as spreadsheets write them, and what they match."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.client.data.dicom.test_deidentify import image
from tests.client.data.dicom_files import write
from tests.client.data.incoming.test_importing import file_bytes
from tests.client.predicting.worlds import write_pictures
from typer.testing import CliRunner

from salus.cli import app
from salus.client.config import init_site, open_catalogue
from salus.client.data.catalogue import Catalogue
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.sources import open_source
from salus.client.data.sources.label_file import lines_of
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import DataError

RAMP = np.arange(16, dtype=np.int16).reshape(4, 4)
CELL = st.text("abcäöüß0123456789 .,;-\"'", max_size=8).filter(lambda text: text.strip() == text)


def written(rows: list[list[str]], separator: str) -> str:
    return "".join(separator.join('"' + cell.replace('"', '""') + '"' for cell in row) + "\r\n" for row in rows)


@given(
    st.lists(st.tuples(CELL, CELL), max_size=5),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
)
def test_any_encoding_and_separator_gives_the_same_cells(
    rows: list[tuple[str, str]], separator: str, encoding: str
) -> None:
    table = [["PatientID", "label"], *map(list, rows)]
    read = lines_of(written(table, separator).encode(encoding), "labels.csv")
    assert [list(line) for line in read.lines] == table
    assert read.separator == separator


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"sep=;\r\na;b\r\n1;2\r\n", [["a", "b"], ["1", "2"]]),
        (b"a,b\n1,2", [["a", "b"], ["1", "2"]]),
        (b"a;b\n\n1,5;x,y\n", [["a", "b"], ["1,5", "x,y"]]),
        (b"", []),
    ],
)
def test_lines(data: bytes, expected: list[list[str]]) -> None:
    assert [list(line) for line in lines_of(data, "x.csv").lines] == expected


@pytest.mark.parametrize("data", [b"a\0,\0b\0\n\0", b"\x81\x8d,b\n", b"\x00" * 40])
def test_what_is_not_text_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="CSV"):
        lines_of(data, "x.csv")


def test_a_comma_is_a_decimal_sign_only_where_it_does_not_separate_columns() -> None:
    semicolons, commas = lines_of(b"a;b\n1,5;2\n", "x"), lines_of(b'a,b\n"1,5",2\n', "x")
    assert [semicolons.number(cell) for cell in ("1,5", "-,5", "1,2,3", "x,y", "1.234,5")] == [
        "1.5", "-.5", "1,2,3", "x,y", "1.234,5",
    ]  # fmt: skip
    assert commas.number("1,5") == "1,5"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_a_label_file_of_a_spreadsheet_is_read_in_the_sandbox(tmp_path: Path, encoding: str) -> None:
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "ä.png")
    (tmp_path / "labels.csv").write_bytes("file;label;PatientID;size\nä.png;krank;Köhler;1,5\n".encode(encoding))
    source = open_source("images", tmp_path, SourceOptions(numbers=("size",)), Decoding())
    (record, *_) = source.everything()
    assert (record.label, record.patient) == ("krank", "Köhler")  # type: ignore[union-attr]
    assert source.load(record.key).targets["numbers"].tolist() == [1.5]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("PatientID", "P1"), ("StudyInstanceUID", "1.2.3"), ("SeriesInstanceUID", "1.2.3.4"), ("SOPInstanceUID", "1.2.3.4.5"),
        ("AccessionNumber", "A-17"), ("file", "a.dcm"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("door", ["add", "import"])
def test_labels_are_matched_by_every_identifier_at_both_doors(
    tmp_path: Path, column: str, value: str, door: str
) -> None:
    site, data = tmp_path / "site", tmp_path / "data"
    data.mkdir()
    init_site(site, "S")
    facts = {
        "PatientID": "P1", "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": "1.2.3.4.5",
        "AccessionNumber": "A-17",
    }  # fmt: skip
    if door == "add":
        write(data / "a.dcm", RAMP, **facts)
    else:
        (data / "a.dcm").write_bytes(file_bytes(image(**facts)))
    (data / "labels.csv").write_text(f"{column},label\n {value} ,yes\nnobody,no\n")
    command = ["dataset", door, str(site), "x", str(data), "--labels", str(data / "labels.csv"), "--yes"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    catalogue = open_catalogue(site)
    assert [item.label for item in catalogue.images("x")] == ["yes"]
    assert catalogue.summary("x").unmatched == 1
    (row,) = [item for item in catalogue.quarantined("x") if item.reason == "label-without-image"]
    assert row.key == f"labels.csv: {column} nobody"
    assert b"nobody" not in (site / "catalogue.sqlite").read_bytes()


@pytest.mark.parametrize("door", ["add", "import"])
def test_identifiers_without_their_leading_zeros_are_an_error_with_its_remedy(tmp_path: Path, door: str) -> None:
    site, data = tmp_path / "site", tmp_path / "data"
    data.mkdir()
    init_site(site, "S")
    for number in range(3):
        facts = {"PatientID": f"00{number}7", "InstanceNumber": number, "StudyInstanceUID": f"1.2.{number}"}
        path = data / f"{number}.dcm"
        if door == "add":
            write(path, RAMP + number, **facts)
        else:
            path.write_bytes(file_bytes(image(**facts)))
    (data / "labels.csv").write_text("PatientID,label\n7,a\n17,b\n0027,b\n")
    command = ["dataset", door, str(site), "x", str(data), "--labels", str(data / "labels.csv"), "--yes"]
    problem = CliRunner().invoke(app, command).exception
    assert isinstance(problem, DataError)
    assert "2 patient identifier(s)" in problem.problem
    assert "--zero-pad-ids 4" in problem.remedy
    result = CliRunner().invoke(app, [*command, "--zero-pad-ids", "4"])
    assert result.exit_code == 0, result.output
    assert open_catalogue(site).summary("x").images == 3


@pytest.mark.parametrize("door", ["add", "import"])
def test_an_accession_number_of_two_patients_labels_neither(tmp_path: Path, door: str) -> None:
    site, data = tmp_path / "site", tmp_path / "data"
    data.mkdir()
    init_site(site, "S")
    for number in range(2):
        facts = {"PatientID": f"P{number}", "AccessionNumber": "A", "StudyInstanceUID": f"1.2.{number}"}
        path = data / f"{number}.dcm"
        if door == "add":
            write(path, RAMP + number, **facts)
        else:
            path.write_bytes(file_bytes(image(**facts)))
    (data / "labels.csv").write_text("AccessionNumber,label\nA,x\n")
    command = ["dataset", door, str(site), "x", str(data), "--labels", str(data / "labels.csv"), "--yes"]
    problem = CliRunner().invoke(app, command).exception
    assert isinstance(problem, DataError)
    assert "match by AccessionNumber" in problem.problem
    assert open_catalogue(site).names() == []


def test_a_file_name_in_two_folders_labels_neither(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for place in ("x", "y"):
        (data / place).mkdir(parents=True)
        Image.fromarray(RAMP.astype(np.uint8)).save(data / place / "a.png")
    (data / "labels.csv").write_text("file,label\na.png,1\n")
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    with pytest.raises(DataError, match="match by file"):
        catalogue.add("n", "images", data, SourceOptions())
    (data / "labels.csv").write_text("file,label\nx/a.png,1\ny/a.png,0\nz.png,1\n")
    summary = catalogue.add("n", "images", data, SourceOptions())
    assert (summary.images, summary.unmatched) == (2, 1)


def test_rows_are_not_called_unmatched_after_a_file_has_killed_the_reader(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray((RAMP + number).astype(np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{n}.png,1\n" for n in range(3)))
    source = open_source("images", tmp_path, SourceOptions(), Decoding())
    items = source.everything()
    next(items)
    source._child.stop()  # type: ignore[attr-defined]
    rest = list(items)
    assert [item.reason for item in rest if isinstance(item, Quarantined)] == ["set-aside"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PatientID,label\nP1,1,5\nP2,2\n", "line 2"),  # an unquoted decimal comma: the label would be 1
        ("PatientID,label,label\nP1,1,5\n", "several columns 'label'"),
        ("PatientID,PatientID,label\nP1,P2,5\n", "several columns 'PatientID'"),
        ('PatientID,label\n"P1,1\nP2,2\n', "CSV"),  # a quote that is never closed swallows rows
    ],
)
def test_a_label_file_that_can_be_read_in_two_ways_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_source("dicom", tmp_path, SourceOptions(), None)


def test_empty_cells_behind_the_last_column_and_repeated_columns_that_nobody_reads_cost_nothing(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("PatientID,label,note,note\nP1,1,,,,\nP2,2\n")
    open_source("dicom", tmp_path, SourceOptions(), None)


def test_an_event_that_is_neither_yes_nor_no_is_no_label(tmp_path: Path) -> None:
    """An unknown end was once read as an event."""
    write_pictures(tmp_path, {f"{n}.png": 10 * n for n in range(4)})
    cells = ["file,PatientID,days,died", "0.png,A,5,1", "1.png,B,6,0", "2.png,C,7,?", "3.png,D,8,"]
    (tmp_path / "labels.csv").write_text("\n".join(cells) + "\n")
    found = list(open_source("images", tmp_path, SourceOptions(label_column="days", event_column="died")).scan())
    assert {one.patient: one.label for one in found if isinstance(one, ImageRecord)} == {"A": "5", "B": "6+"}
    assert [one.reason for one in found if isinstance(one, Quarantined)] == ["unlabelled", "unlabelled"]
