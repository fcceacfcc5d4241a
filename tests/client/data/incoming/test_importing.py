"""The way in: hostile and mutated files end as counts, and what is stored names nobody."""

import io
import os
import signal
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless
from tests.client.data.dicom.test_deidentify import SECRET, image, leaks, planted

from salus.client.data.catalogue import Catalogue
from salus.client.data.dicom import channel
from salus.client.data.dicom.channel import Channel
from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.incoming.files import Incoming, from_folder, from_zip
from salus.client.data.incoming.importing import ImportReport, import_images
from salus.client.data.incoming.progress import STORED, Progress
from salus.client.data.incoming.storing import LABELS
from salus.client.data.sources.label_match import LabelRow, Labels
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import DataError, UnreadableImage

EVERYBODY = Labels({"PatientID": {"CANARY-PID": LabelRow("yes"), **{f"P{n}": LabelRow("no") for n in range(50)}}})


def file_bytes(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Return a whole file."""
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPInstanceUID = dataset.get("SOPInstanceUID") or "1.2.3.4"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, FileDataset(buffer, dataset, file_meta=dataset.file_meta, preamble=bytes(128)))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def child() -> Iterator[Isolated]:
    with Isolated(SECRET) as made:
        yield made


def test_a_good_file_comes_out_clean(child: Isolated) -> None:
    dataset, _ = planted()
    clean = child.clean(file_bytes(dataset))
    assert leaks(clean.data) == []
    assert np.array_equal(pydicom.dcmread(io.BytesIO(clean.data)).pixel_array.ravel(), np.arange(20))


def nested(depth: int) -> bytes:
    inner = Dataset()
    inner.PatientName = "x"
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedStudySequence = [inner]
        inner = outer
    dataset = image()
    dataset.ReferencedStudySequence = [inner]
    return file_bytes(dataset)


def hostile() -> dict[str, bytes]:
    """Return files that have brought readers down, by name."""
    good = file_bytes(image())
    deflated = image(ImageComments="0" * 100_000_000)
    huge = image(Rows=65535, Columns=65535, NumberOfFrames=1000)
    liar = image(PixelData=b"\0\0")
    j2k = image()
    j2k.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + os.urandom(200)])
    j2k["PixelData"].is_undefined_length = True
    traversal = image(
        SOPInstanceUID="../../../etc/passwd", StudyInstanceUID="/root/x", PatientID="../../../../tmp/evil"
    )
    return {
        "empty": b"",
        "text": b"hello" * 100,
        "elf in the preamble, nothing behind": b"\x7fELF".ljust(128, b"\0") + b"DICM",
        "truncated header": good[:140],
        "truncated pixels": good[:-30],
        "deflated bomb": file_bytes(deflated, DeflatedExplicitVRLittleEndian),
        "declares terabytes": file_bytes(huge),
        "fewer pixels than declared": file_bytes(liar),
        "a picture that is none": file_bytes(j2k, JPEG2000Lossless),
        "nested deeply": nested(120),
        "no patient": file_bytes(image(PatientID="")),
        "no pixels": file_bytes(_without(image(), "PixelData")),
        "a length of 4 GB": good[:-48] + b"\xff\xff\xff\xfe" + good[-44:],
        "paths for names": file_bytes(traversal),
    }


def _without(dataset: Dataset, name: str) -> Dataset:
    del dataset[name]
    return dataset


def test_the_zoo_is_counted_and_nothing_is_written_outside(tmp_path: Path, child: Isolated) -> None:
    files = hostile()
    before = {path for path in tmp_path.rglob("*")}
    labels = Labels({"file": {name: LabelRow("x") for name in files}})
    report = import_images((Incoming(n, d) for n, d in files.items()), labels, SECRET, tmp_path / "store", [child])
    assert report.images + sum(report.refused.values()) == report.found == len(files)
    named = [item.key for item in report.files]  # each by name, in order
    assert named == [name for name in files if name in named]
    assert len(named) == sum(report.refused.values())
    assert report.images <= 2  # only harmless ones: traversal is only text, and text is dropped
    assert report.refused["crashed"] == 0
    written = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - before}
    assert written == {"store"}
    assert all(len(path.stem) == 64 for path in (tmp_path / "store").rglob("*.dcm"))


def test_mutated_files_never_end_the_import(tmp_path: Path, child: Isolated) -> None:
    rng = np.random.default_rng(11)
    dataset, _ = planted()
    seeds = [file_bytes(image()), file_bytes(dataset)]

    def mutated() -> Iterator[Incoming]:
        for number in range(1000):
            data = bytearray(seeds[number % 2])
            for _ in range(int(rng.integers(1, 12))):
                data[int(rng.integers(0, min(len(data), 4000 if number % 3 else len(data))))] = int(
                    rng.integers(0, 256)
                )
            if number % 5 == 0:
                data = data[: int(rng.integers(1, len(data)))]
            yield Incoming(f"m{number}", bytes(data))

    report = import_images(mutated(), EVERYBODY, SECRET, tmp_path / "store", [child])
    assert report.images + report.duplicates + sum(report.refused.values()) == 1000
    for path in (tmp_path / "store").rglob("*.dcm"):
        data = path.read_bytes()
        assert b"CANARY" not in data


def test_a_child_that_hangs_or_dies_costs_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "PATIENCE", 1.0)
    with Isolated(SECRET, seconds=0.5) as child:
        good = file_bytes(image())
        child.clean(good)
        os.kill(child.process_id, signal.SIGSTOP)
        with pytest.raises(UnreadableImage, match="too-slow"):
            child.clean(good)
        child.clean(good)  # a new child
        os.kill(child.process_id, signal.SIGKILL)
        with pytest.raises(UnreadableImage, match="crashed"):
            child.clean(good)
        child.clean(good)


def test_an_answer_is_never_taken_for_the_next_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception between question and answer once left the answer in the pipe."""
    first, second = (file_bytes(image(PatientID=name)) for name in ("P1", "P2"))
    with Isolated(SECRET) as child:
        expected = child.clean(second).patient
        for problem in (MemoryError, KeyboardInterrupt):
            with monkeypatch.context() as patch:
                patch.setattr(Channel, "receive", lambda *_: (_ for _ in ()).throw(problem))  # noqa: B023
                with pytest.raises((UnreadableImage, KeyboardInterrupt)):
                    child.clean(first)
            assert child.clean(second).patient == expected


def test_an_object_is_asked_for_again_where_another_try_may_help(tmp_path: Path, child: Isolated) -> None:
    def objects(progress: Progress) -> Iterator[Incoming]:
        for name, patient in (("1.2.1", "P1"), ("1.2.2", "P2"), ("1.2.3", "")):
            if progress.outcome("1.2", name) is None:
                data = file_bytes(image(PatientID=patient, InstanceNumber=int(name[-1]))) if patient else b"junk" * 100
                yield Incoming(name, data, "1.2")

    labels = {"P1": LabelRow("a")}
    for expected in ({"unlabelled": 1, "not-dicom": 1}, {}):
        progress = Progress(tmp_path, SECRET)
        found = Labels({"PatientID": labels})
        report = import_images(objects(progress), found, SECRET, tmp_path, [child], progress=progress)
        assert (report.images, dict(report.refused)) == (1, expected)
        labels["P2"] = LabelRow("b")  # the label file is corrected
    again = Progress(tmp_path, SECRET)
    assert [again.outcome("1.2", f"1.2.{n}") for n in (1, 2, 3, 4)] == [STORED, STORED, "not-dicom", None]
    assert again.outcome("1.3", "1.2.1") is None  # the same object in another study is another object


def test_what_another_version_refused_is_tried_again_and_what_it_stored_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Progress(tmp_path, SECRET).put(
        [("1.2", "1.2.1", STORED), ("1.2", "1.2.2", "unsupported"), ("1.2", "1.2.3", "pacs")]
    )
    assert [Progress(tmp_path, SECRET).outcome("1.2", f"1.2.{n}") for n in (1, 2, 3)] == [STORED, "unsupported", None]
    monkeypatch.setattr("salus.client.data.incoming.progress.__version__", "99.0")
    assert [Progress(tmp_path, SECRET).outcome("1.2", f"1.2.{n}") for n in (1, 2, 3)] == [STORED, None, None]


def test_labels_are_found_by_the_identifiers_of_the_label_file(tmp_path: Path, child: Isolated) -> None:
    labels = Labels(
        {
            "file": {"first.dcm": LabelRow("by-file")},
            "StudyInstanceUID": {"1.2.33": LabelRow("by-study", split="val")},
            "PatientID": {"P3": LabelRow("by-patient")},
        }
    )
    files = [
        Incoming("first.dcm", file_bytes(image(PatientID="P1"))),
        Incoming("b.dcm", file_bytes(image(PatientID="P2", StudyInstanceUID="1.2.33"))),
        Incoming("c.dcm", file_bytes(image(PatientID="P3"))),
        Incoming("d.dcm", file_bytes(image(PatientID="P4"))),
    ]
    report = import_images(files, labels, SECRET, tmp_path, [child])
    assert (report.images, dict(report.refused)) == (3, {"unlabelled": 1})
    text = (tmp_path / LABELS).read_text()
    assert [line.split(",", 1)[1] for line in text.splitlines()[1:]] == ["by-file,", "by-study,val", "by-patient,"]
    for name in ("first.dcm", "1.2.33", "P3"):
        assert name not in text


def test_a_label_that_is_a_formula_is_harmless_in_the_file_and_itself_in_the_catalogue(
    tmp_path: Path, child: Isolated
) -> None:
    formula = '=HYPERLINK("http://evil")'
    for _ in range(2):  # the second import reads the file of the first
        labels = Labels({"PatientID": {"P1": LabelRow(formula, split="val")}})
        import_images([Incoming("x", file_bytes(image(PatientID="P1")))], labels, SECRET, tmp_path / "store", [child])
        text = (tmp_path / "store" / LABELS).read_text()
        assert "'=HYPERLINK" in text
        assert ",=" not in text
        assert ',"=' not in text
    catalogue = Catalogue(tmp_path / "catalogue.sqlite", SECRET)
    catalogue.add("imported", "imported", tmp_path / "store", SourceOptions())
    assert [item.label for item in catalogue.images("imported")] == [formula]


def test_an_imported_patient_is_the_same_to_the_ledger_as_a_plain_one(tmp_path: Path, child: Isolated) -> None:
    (tmp_path / "plain").mkdir()
    for number in range(3):
        (tmp_path / "plain" / f"{number}.dcm").write_bytes(
            file_bytes(image(PatientID=f"P{number}", InstanceNumber=number))
        )
    (tmp_path / "plain" / "labels.csv").write_text("PatientID,label\nP0,yes\nP1,no\nP2,no\n")
    catalogue = Catalogue(tmp_path / "catalogue.sqlite", SECRET)
    catalogue.add("plain", "dicom", tmp_path / "plain", SourceOptions())
    report = import_images(from_folder(tmp_path / "plain"), EVERYBODY, SECRET, tmp_path / "store", [child])
    assert report.images == 3
    catalogue.add("imported", "imported", tmp_path / "store", SourceOptions())
    assert {i.patient for i in catalogue.images("plain")} == {i.patient for i in catalogue.images("imported")}
    with pytest.raises(DataError, match="not-imported"):
        catalogue.add("cheat", "imported", tmp_path / "plain", SourceOptions())


def test_importing_again_adds_nothing_and_stored_objects_are_remembered(tmp_path: Path, child: Isolated) -> None:
    files = [Incoming("x", file_bytes(image()))]
    first = import_images(files, EVERYBODY, SECRET, tmp_path, [child])
    again = import_images(files, EVERYBODY, SECRET, tmp_path, [child])
    assert (first.images, again.images, again.duplicates) == (1, 0, 1)
    (tmp_path / "progress.jsonl").write_text(
        '"a study of an older version"\n[1]\n{"version": 1}\n{"studies": 3}\n{"cut'
    )
    progress = Progress(tmp_path, SECRET)
    progress.put([("1.2.3", "1.2.3.4", STORED)])
    resumed = Progress(tmp_path, SECRET)
    assert resumed.outcome("1.2.3", "1.2.3.4") == STORED
    assert resumed.outcome("1.2.3", "1.2.3.5") is None
    assert "1.2.3" not in (tmp_path / "progress.jsonl").read_text()


def test_a_crash_between_label_and_image_loses_neither(
    tmp_path: Path, child: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [Incoming("x", file_bytes(image()))]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("salus.client.data.incoming.storing._write", killed)
        with pytest.raises(KeyboardInterrupt):
            import_images(files, EVERYBODY, SECRET, tmp_path, [child])
    (path,) = [line.split(",")[0] for line in (tmp_path / LABELS).read_text().splitlines()[1:]]
    assert import_images(files, EVERYBODY, SECRET, tmp_path, [child]).images == 1
    assert (tmp_path / path).exists()
    with (tmp_path / LABELS).open("a") as file:
        file.write("ab/cut off by a cra")  # no label, no newline
    corrected = Labels({"PatientID": {"CANARY-PID": LabelRow("corrected")}})
    assert import_images(files, corrected, SECRET, tmp_path, [child]).duplicates == 1
    assert (tmp_path / LABELS).read_text().splitlines() == ["file,label,split", f"{path},corrected,"]
    (tmp_path / LABELS).unlink()  # images without labels get them back
    import_images(files, EVERYBODY, SECRET, tmp_path, [child])
    assert (tmp_path / LABELS).read_text().splitlines()[1:] == [f"{path},yes,"]


def test_a_zip_is_read_in_memory_within_limits(tmp_path: Path, child: Isolated) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.dcm", file_bytes(image()))
        archive.writestr("bomb.dcm", b"\0" * 50_000_000)
        archive.writestr("readme.txt", "not read")
    report = import_images(from_zip(tmp_path / "a.zip"), EVERYBODY, SECRET, tmp_path / "store", [child])
    assert (report.images, dict(report.refused)) == (1, {"zip-bomb": 1})
    assert not (tmp_path.parent / "evil.dcm").exists()
    (tmp_path / "b.zip").write_bytes(b"PK\3\4" + os.urandom(100))
    with pytest.raises(DataError, match="zip"):
        list(from_zip(tmp_path / "b.zip"))
    damaged = bytearray((tmp_path / "a.zip").read_bytes())
    damaged[60:80] = os.urandom(20)
    (tmp_path / "c.zip").write_bytes(damaged)
    report = import_images(from_zip(tmp_path / "c.zip"), EVERYBODY, SECRET, tmp_path / "other", [child])
    assert report.images == 0
    assert sum(report.refused.values()) == 2


def test_links_and_other_things_that_are_no_files_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    (root / "good.dcm").write_bytes(b"x")
    (root / "link.dcm").symlink_to("/etc/passwd")
    (root / "DICOMDIR").write_bytes(b"x")
    os.mkfifo(root / "pipe.dcm")
    (root / "notes.txt").write_text("x")
    (root / "sub").mkdir()
    left_out: Counter[str] = Counter()
    assert [incoming.name for incoming in from_folder(root, left_out)] == ["good.dcm"]
    assert left_out == {"link": 1, "DICOMDIR": 1, "special file": 1, ".txt": 1}


def test_the_report_is_counts_only(tmp_path: Path, child: Isolated) -> None:
    dataset, _ = planted()
    report = import_images([Incoming("CANARY", file_bytes(dataset))], EVERYBODY, SECRET, tmp_path, [child])
    assert isinstance(report, ImportReport)
    assert leaks(repr(report.to_json()).encode()) == []
    assert report.to_json()["patients"] == 1
