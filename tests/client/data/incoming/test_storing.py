"""The store: whatever ends an import, what is there is complete and labelled, and the next import brings the rest."""

import csv
import hashlib
import os
import signal
import sys
from pathlib import Path

import pytest
from tests.client.data.dicom.test_deidentify import SECRET, image
from tests.client.data.incoming.test_importing import EVERYBODY, file_bytes
from tests.processes import running, wait_until

from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.deidentify import Clean
from salus.client.data.incoming import storing
from salus.client.data.incoming.files import Incoming, from_folder
from salus.client.data.incoming.importing import import_images
from salus.client.data.incoming.progress import STORED, Progress
from salus.client.data.incoming.storing import LABELS, Store
from salus.common.errors import DataError

FILES = 90
# Small batches, so that a kill falls between and into them.
IMPORTER = """
import sys
from pathlib import Path
from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.incoming import importing, pipeline
from salus.client.data.incoming.files import Incoming, from_folder
from salus.client.data.incoming.progress import Progress
from salus.client.data.sources.labels import LabelRow, Labels
pipeline.BATCH_FILES, pipeline.GROUP_FILES = 7, 3
data, store, secret = Path(sys.argv[1]), Path(sys.argv[2]), bytes.fromhex(sys.argv[3])
labels = Labels({"PatientID": {f"P{n}": LabelRow("no") for n in range(50)}})
files = (Incoming(item.name, item.data, "1.2") for item in from_folder(data))
with pipeline.started(lambda: Isolated(secret)) as children:
    importing.import_images(files, labels, secret, store, children, progress=Progress(store, secret))
"""


def clean(content: bytes) -> Clean:
    return Clean(content, hashlib.sha256(content).hexdigest(), "a" * 32, "b" * 32, "GE")


def check(store: Path) -> set[str]:
    """Return the images of a store, after what must always hold."""
    stored = {path.relative_to(store).as_posix(): path.read_bytes() for path in store.glob("??/*.dcm")}
    for name, content in stored.items():
        assert hashlib.sha256(content).hexdigest() == Path(name).stem
    if stored:
        with (store / LABELS).open(newline="") as file:
            assert {row[0] for row in csv.reader(file) if len(row) == 3} >= set(stored)
    return set(stored)


def test_whenever_an_import_is_killed_what_is_stored_is_whole_and_the_rest_follows(tmp_path: Path) -> None:
    data, store = tmp_path / "data", tmp_path / "store"
    data.mkdir()
    for number in range(FILES):
        content = file_bytes(image(PatientID=f"P{number % 50}", InstanceNumber=number))
        (data / f"{number:03}.dcm").write_bytes(content)
    command = [sys.executable, "-c", IMPORTER, data, store, SECRET.hex()]
    before = 0
    for stop_at in (1, 20, 45):
        with running(command) as process:
            wait_until(
                lambda stop_at=stop_at: len(list(store.glob("??/*.dcm"))) >= stop_at, "an image", process=process
            )  # type: ignore[misc]
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert len(check(store)) >= max(before, stop_at)
        before = len(check(store))
        remembered = Progress(store, SECRET)
        told = sum(remembered.outcome("1.2", f"{number:03}.dcm") == STORED for number in range(FILES))
        assert told <= before  # nothing is reported that is not there
    with Isolated(SECRET) as child:
        report = import_images(from_folder(data), EVERYBODY, SECRET, store, [child])
    assert (report.images + report.duplicates, len(check(store))) == (FILES, FILES)
    assert report.duplicates == before
    assert list(store.rglob("*.partial")) == []


def test_a_batch_waits_for_the_disk_in_the_right_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels, then bytes, then names: power may fail between any two of them."""
    log: list[str] = []
    settle, replace = storing._settle, Path.replace

    def settled(folder: Path, paths: list[Path]) -> None:
        log.append(f"settled {sum(path.suffix == '.partial' for path in paths)} files")
        settle(folder, paths)

    def replaced(self: Path, target: Path) -> Path:
        log.append("named" if target.suffix == ".dcm" else "labels")
        return replace(self, target)

    def synced(handle: int) -> None:
        log.append("labels" if os.readlink(f"/proc/self/fd/{handle}").endswith(".csv") else "synced")

    with Store(tmp_path) as store:
        monkeypatch.setattr(storing, "_settle", settled)
        monkeypatch.setattr(Path, "replace", replaced)
        monkeypatch.setattr(os, "fsync", synced)
        assert store.put([(clean(bytes([n])), ("x", "")) for n in (1, 2, 1)]) == [True, True, False]
        waits = [entry for entry in log if entry != "synced"]
        assert waits == ["labels", "settled 2 files", "named", "named", "settled 0 files"]
        assert len(log) - len(waits) <= 2  # one wait for each step, however many files
        assert store.put([(clean(b"\1"), ("x", ""))]) == [False]
        monkeypatch.undo()
    assert len(check(tmp_path)) == 2


def test_leftovers_of_a_killed_import_are_removed_and_images_stay(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.put([(clean(b"a"), ("x", ""))])
    (name,) = check(tmp_path)
    (tmp_path / name).with_suffix(".partial").write_bytes(b"half")
    with Store(tmp_path) as store:
        assert store.put([(clean(b"a"), ("y", "val"))]) == [False]
    assert list(tmp_path.rglob("*.partial")) == []
    assert (tmp_path / LABELS).read_text().splitlines() == ["file,label,split", f"{name},y,val"]


def test_a_full_disk_is_named_without_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/secret/place")

    with Store(tmp_path) as store:
        monkeypatch.setattr(storing, "_settle", full)
        with pytest.raises(DataError, match="No space left") as caught:
            store.put([(clean(b"a"), None), (clean(b"b"), None)])
    assert "/secret" not in str(caught.value)
    assert check(tmp_path) == set()


def test_a_batch_that_fails_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storing, "_settle", full)
    files = [Incoming("1.2.1", file_bytes(image(PatientID="P1")), "1.2")]
    with Isolated(SECRET) as child, pytest.raises(DataError, match="No space left"):
        import_images(files, EVERYBODY, SECRET, tmp_path, [child], progress=Progress(tmp_path, SECRET))
    assert Progress(tmp_path, SECRET).outcome("1.2", "1.2.1") is None
