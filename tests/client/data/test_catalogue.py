import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.processes import start

from salus.client.data.catalogue import Catalogue
from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import DataError


def records(count: int) -> list[ImageRecord | Quarantined]:
    return [
        *(ImageRecord(f"patient-{i // 2}", f"study-{i}", f"k{i}", str(i % 2), "", f"{i % 3}") for i in range(count)),
        Quarantined("bad", "damaged", "x"),
    ]


def test_counts_and_pseudonyms(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    catalogue = Catalogue(path, b"one secret")
    summary = catalogue.add_records("a", "dicom", tmp_path, SourceOptions(), records(6))
    assert (summary.patients, summary.studies, summary.images) == (3, 6, 6)
    assert summary.labels == {"0": 3, "1": 3}
    assert summary.quarantined == {"damaged": 1}
    assert summary.duplicates == 3
    stored = (
        path.read_bytes() + path.with_name("c.sqlite-wal").read_bytes()
        if path.with_name("c.sqlite-wal").exists()
        else path.read_bytes()
    )
    assert b"patient-1" not in stored
    assert b"study-1" not in stored
    assert catalogue.images("a")[0].patient == catalogue.images("a")[1].patient
    other = Catalogue(tmp_path / "d.sqlite", b"another secret")
    other.add_records("a", "dicom", tmp_path, SourceOptions(), records(6))
    assert other.images("a")[0].patient != catalogue.images("a")[0].patient


def test_names_are_unique_and_unknown_ones_are_listed(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    catalogue.add_records("a", "dicom", tmp_path, SourceOptions(), records(2))
    with pytest.raises(DataError, match="already registered"):
        catalogue.add_records("a", "dicom", tmp_path, SourceOptions(), records(2))
    with pytest.raises(DataError, match="registered: a"):
        catalogue.images("b")
    catalogue.remove("a")
    assert catalogue.names() == []
    with pytest.raises(DataError):
        catalogue.remove("a")


def test_nothing_usable_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    with pytest.raises(DataError, match="damaged"):
        catalogue.add_records("a", "dicom", tmp_path, SourceOptions(), [Quarantined("k", "damaged", "")])
    assert catalogue.names() == []


def test_the_file_is_private(tmp_path: Path) -> None:
    Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    assert (tmp_path / "c.sqlite").stat().st_mode & 0o077 == 0


SLOW_ADD = """
import sys, time
from collections.abc import Iterator
from pathlib import Path
from salus.client.data.catalogue import Catalogue
from salus.client.data.records import ImageRecord
from salus.client.data.sources.settings import SourceOptions
def slow():
    for i in range(10_000):
        print("read", flush=True)
        time.sleep(0.01)
        yield ImageRecord(f"p{i}", "s", f"k{i}", "0")
folder = Path(sys.argv[1])
Catalogue(folder / "c.sqlite", b"s" * 16).add_records("half", "dicom", folder, SourceOptions(), slow())
"""


def test_killed_in_the_middle_a_data_set_is_not_there_at_all(tmp_path: Path) -> None:
    Catalogue(tmp_path / "c.sqlite", b"s" * 16).add_records("whole", "dicom", tmp_path, SourceOptions(), records(4))
    process = start([sys.executable, "-c", SLOW_ADD, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(10):  # in the middle: some records are read, and nearly all are not
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    assert catalogue.names() == ["whole"]
    assert catalogue.summary("whole").images == 4


def test_a_replaced_data_set_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    catalogue.add_records("a", "dicom", tmp_path, SourceOptions(), records(4))

    def breaks() -> Iterator[ImageRecord]:
        yield ImageRecord("p", "s", "k", "0")
        assert Catalogue(tmp_path / "c.sqlite", b"s" * 16).summary("a").images == 4  # and readers are not locked out
        raise RuntimeError

    with pytest.raises(RuntimeError):
        catalogue.add_records("a", "dicom", tmp_path, SourceOptions(), breaks(), replace=True)
    assert catalogue.summary("a").images == 4
    catalogue.add_records("a", "dicom", tmp_path, SourceOptions(), records(2), replace=True)
    assert catalogue.summary("a").images == 2
    assert len(catalogue.quarantined("a")) == 1


@pytest.mark.slow
def test_a_million_images_in_bounded_memory(tmp_path: Path) -> None:
    script = """
import resource, sys
from collections.abc import Iterator
from pathlib import Path
from salus.client.data.catalogue import Catalogue
from salus.client.data.records import ImageRecord
from salus.client.data.sources.settings import SourceOptions
found = (ImageRecord(f"p{i // 4}", f"s{i // 2}", f"{i:07d}.dcm", str(i % 2), "", f"{i:064x}", f"{i:064x}",
                     info={"rows": 512, "columns": 512, "vendor": "GE", "modality": "CT"}) for i in range(10**6))
catalogue = Catalogue(Path(sys.argv[1]), b"s" * 16)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
summary = catalogue.add_records("a", "dicom", Path("."), SourceOptions(), found)
assert (summary.images, summary.patients, summary.duplicates) == (10**6, 250_000, 0)
assert sum(1 for _ in catalogue.facts("a")) == 10**6
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "c.sqlite")], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 300_000  # kB; all rows in memory are more than a gigabyte


def test_no_path_is_readable_without_the_key(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    found = [
        ImageRecord("CANARY1", "CANARY2", "CANARY/three.dcm", "0"),
        Quarantined("CANARY/bad.dcm", "damaged", "CANARY bad"),
    ]
    options = SourceOptions(labels="/home/CANARY/labels.csv")
    Catalogue(path, b"s" * 16).add_records("a", "images", tmp_path / "CANARY", options, found)
    (tmp_path / "CANARY").mkdir()
    for file in tmp_path.iterdir():
        if file.is_file():
            assert b"CANARY" not in file.read_bytes(), file.name
    catalogue = Catalogue(path, b"s" * 16)
    assert catalogue.images("a")[0].key == "CANARY/three.dcm"
    assert catalogue.quarantined("a")[0].detail == "CANARY bad"
    other = Catalogue(path, b"t" * 16)
    with pytest.raises(DataError, match=r"pseudonym\.key"):
        other.images("a")
