import csv
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.data.dicom.test_deidentify import SECRET, image
from tests.client.data.dicom_files import write
from tests.client.data.incoming.test_importing import file_bytes
from typer.testing import CliRunner

from salus.cli import app
from salus.client.config import init_site, open_catalogue
from salus.client.data.catalogue import Catalogue
from salus.client.data.identity import normalised, without_leading_zeros
from salus.client.data.pseudonyms import literal_pseudonym, pseudonym
from salus.client.data.readiness import check
from salus.client.data.sources.settings import SourceOptions

PADDING = st.text(" \0\t\r\n\ufeff\u00a0\u3000", max_size=4)
CORE = st.text(min_size=1, max_size=20).filter(lambda text: normalised(text) != "")
PLAIN = st.text("abcXYZ0123456789-_./^", min_size=1, max_size=20)


@given(CORE, PADDING, PADDING)
def test_what_the_standard_calls_insignificant_gives_the_same_pseudonym(core: str, before: str, after: str) -> None:
    expected = pseudonym(SECRET, "patient", core)
    for form in ("NFC", "NFD"):
        written = before + unicodedata.normalize(form, core) + after
        assert pseudonym(SECRET, "patient", written) == expected
    assert normalised(normalised(core)) == normalised(core)


@given(PLAIN, PLAIN)
def test_a_plain_identifier_keeps_its_pseudonym_and_different_ones_differ(one: str, other: str) -> None:
    assert pseudonym(SECRET, "patient", one) == literal_pseudonym(SECRET, "patient", one)
    assert (pseudonym(SECRET, "patient", one) == pseudonym(SECRET, "patient", other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("77", "077"), ("a", "A"), ("7 7", "77"), ("1e3", "1000"), ("77", "77.0"), ("K\u00f6hler", "Kohler")],
)
def test_what_is_significant_distinguishes_patients(one: str, other: str) -> None:
    assert pseudonym(SECRET, "patient", one) != pseudonym(SECRET, "patient", other)


def test_leading_zeros_are_those_that_a_spreadsheet_drops() -> None:
    assert [without_leading_zeros(text) for text in ("0077", "000", "A07", "77", "0\u0661")] == [
        "77", "0", "A07", "77", "0\u0661",
    ]  # fmt: skip


@pytest.mark.parametrize("column", ["PatientID", "file"])
@pytest.mark.parametrize("door", ["add", "import"])
def test_one_patient_written_with_spaces_is_one_patient_at_every_door(tmp_path: Path, column: str, door: str) -> None:
    site, data = tmp_path / "site", tmp_path / "data"
    data.mkdir()
    init_site(site, "S")
    for number, written in enumerate(("77", " 77", "77 ", "78")):
        changes = {"PatientID": written, "StudyInstanceUID": f"1.2.3.{number}", "InstanceNumber": number}
        if door == "add":
            write(data / f"{number}.dcm", np.arange(16, dtype=np.int16).reshape(4, 4) + number, **changes)
        else:
            (data / f"{number}.dcm").write_bytes(file_bytes(image(**changes)))
    keys = ["77 ", "78"] if column == "PatientID" else [f"{number}.dcm" for number in range(4)]
    with (data / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[column, "label"], *([key, place % 2] for place, key in enumerate(keys))])
    command = ["dataset", door, str(site), "x", str(data), "--labels", str(data / "labels.csv"), "--yes"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    images = open_catalogue(site).images("x")
    assert len(images) == 4
    assert len({item.patient for item in images}) == 2


def test_one_identifier_of_two_issuers_is_one_patient_and_a_warning(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    issued = [("77", "CLINIC A"), ("77", "Clinic B"), ("78", "Clinic  a "), ("78", "CLINIC A")]
    for number, (patient, issuer) in enumerate(issued):
        pixels = np.arange(16, dtype=np.int16).reshape(4, 4) + number
        write(data / f"{number}.dcm", pixels, PatientID=patient, IssuerOfPatientID=issuer)
    (data / "labels.csv").write_text("PatientID,label\n77,a\n78,b\n")
    catalogue = Catalogue(tmp_path / "c.sqlite", SECRET)
    assert catalogue.add("x", "dicom", data, SourceOptions()).patients == 2
    found = check(catalogue, "x")
    assert found.several_issuers == 1
    assert any("several issuers" in line for line in found.warnings)
    assert "clinic" not in json.dumps([facts.info for facts in catalogue.facts("x")]).lower()
