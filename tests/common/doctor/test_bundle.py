"""A support file tells nobody how many patients a site has: it is the same for a few more of them."""

import contextlib
import json
import sqlite3
import zipfile
from pathlib import Path

from salus.common.doctor.bundle import magnitude, write_bundle
from salus.common.doctor.findings import Finding, Report


def site(folder: Path, patients: int) -> Path:
    for name in ("cache", "withdrawals", "states"):
        (folder / name).mkdir(parents=True)
        for number in range(patients):
            (folder / name / f"{number}.npy").write_bytes(bytes(100))
    with contextlib.closing(sqlite3.connect(folder / "catalogue.sqlite")) as database, database:
        database.execute("CREATE TABLE images (number INTEGER, padding BLOB)")
        database.executemany("INSERT INTO images VALUES (?, ?)", [(number, bytes(1000)) for number in range(patients)])
    for number in range(patients):
        (folder / f"patient-{number}.dcm").touch()
    return folder


def contents(folder: Path, patients: int) -> dict[str, str]:
    seconds = 0.01 * patients
    values = {"minutes": seconds / 60, "compute_s": seconds, "transfer_s": 2.5, "down_bytes": 1000}
    report = Report.of("site", [Finding("round", "ok", "A round.", values=values)])
    bundle = folder.with_suffix(".zip")
    write_bundle(bundle, site(folder, patients), report, {})
    with zipfile.ZipFile(bundle) as archive:
        found = {name: archive.read(name).decode() for name in archive.namelist()}
    found["machine.json"] = ""
    return found


def test_two_sites_with_other_numbers_of_patients_write_the_same_support_file(tmp_path: Path) -> None:
    few, more = contents(tmp_path / "few", 20), contents(tmp_path / "more", 60)
    assert few == more
    assert json.loads(few["files.json"])["known"]["cache"] == {"bytes": 10_000}
    assert json.loads(few["doctor.json"])["checks"][0]["values"] == {"transfer_s": 2.5, "down_bytes": 1000}


def test_a_magnitude_is_the_next_power_of_ten() -> None:
    assert [magnitude(number) for number in (0, 1, 2, 10, 11, 100, 101)] == [0, 1, 10, 10, 100, 100, 1000]
