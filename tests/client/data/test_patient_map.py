from pathlib import Path

import pytest
from tests.client.data.dicom.test_deidentify import SECRET, image
from tests.client.data.incoming.test_importing import file_bytes
from typer.testing import CliRunner

from salus.cli import app
from salus.client.config import init_site, open_catalogue
from salus.client.data.patient_map import FILE, PatientMap
from salus.client.data.sealing import Sealer
from salus.common.errors import DataError


def test_an_imported_patient_is_found_again_and_nothing_names_anyone(tmp_path: Path) -> None:
    site, data = tmp_path / "site", tmp_path / "data"
    data.mkdir()
    init_site(site, "S")
    for n in range(3):
        (data / f"{n}.dcm").write_bytes(file_bytes(image(PatientID=f"CANARY-{n % 2}", InstanceNumber=n)))
    (data / "labels.csv").write_text("PatientID,label\nCANARY-0,a\nCANARY-1,b\n")
    arguments = ["dataset", "import", str(site), "x", str(data), "--labels", str(data / "labels.csv")]
    for _ in range(2):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    path = site / "keys" / FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"CANARY" not in path.read_bytes()
    assert len(path.read_text().split()) == 4  # two patients, each written once: [pseudonym, sealed]
    found = set()
    for pseudonym in {item.patient for item in open_catalogue(site).images("x")}:
        shown = CliRunner().invoke(app, ["dataset", "patient", str(site), pseudonym])
        found.add(shown.output.strip())
    assert found == {"CANARY-0", "CANARY-1"}
    unknown = CliRunner().invoke(app, ["dataset", "patient", str(site), "0" * 32]).exception
    assert isinstance(unknown, DataError)


def test_a_cut_line_loses_itself_only_and_another_key_opens_nothing(tmp_path: Path) -> None:
    seal = Sealer(SECRET, "patients").seal
    patients = PatientMap(tmp_path)
    patients.remember({"a": seal("one")})
    patients.remember({"b": seal("two")})
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-10])
    again = PatientMap(tmp_path)
    assert again.find("a", SECRET) == "one"
    with pytest.raises(DataError):
        again.find("b", SECRET)
    again.remember({"b": seal("two")})
    assert PatientMap(tmp_path).find("b", SECRET) == "two"
    with pytest.raises(DataError, match=r"pseudonym\.key"):
        again.find("a", b"t" * 16)
