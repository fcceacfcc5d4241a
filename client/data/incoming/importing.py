"""Import: files from a folder, a zip or a PACS, each de-identified in the isolated child and stored under its content's hash.

    source ─ name, bytes ─> isolated child ─ clean object ─> <store>/<first two digits>/<hash>.dcm
                                        └── reason ──> counted in the report, never fatal

Finished studies are not read again, so an interrupted import can be resumed. Labels are matched by the
pseudonyms of the label file's own identifiers; what is stored with the images identifies no one.
"""

import contextlib
import csv
import json
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.deidentify import Clean
from salus.client.data.dicom.messages import MAX_FILE_BYTES
from salus.client.data.patient_map import PatientMap
from salus.client.data.pseudonyms import pseudonym
from salus.client.data.sources.labels import Labels
from salus.common.cells import read_cell, write_cell
from salus.common.errors import DataError, UnreadableImage

MAX_ZIP_MEMBERS = 1_000_000
MAX_ZIP_RATIO = 200  # DICOM compresses about 3 to 1; 42.zip a hundred million to 1
# Reasons that may be resolved in another run: a corrected label file, a less busy machine.
WORTH_ANOTHER_TRY = {
    "unlabelled",
    "too-slow",
    "crashed",
    "pacs",
    "pacs-list",
    "no-series-uid",
    "no-instance-uid",
}
LABELS, PROGRESS = "labels.csv", "progress.jsonl"
SKIPPED_NAMES = {"DICOMDIR", "LICENSE", "README", "SHA256SUMS", "DIRFILE"}
SKIPPED_SUFFIXES = {".csv", ".txt", ".md", ".json", ".toml", ".zip"}


@dataclass(frozen=True)
class Incoming:
    """One file of a source.

    Args:
        name: as the source calls it; used for labels and never stored.
        data: its bytes, or the reason why they could not be read.
        study: a key of its study, so that finished ones are skipped; empty if unknown.
    """

    name: str
    data: bytes | UnreadableImage
    study: str = ""


@dataclass
class ImportReport:
    """What an import did: counts only, no identifier."""

    images: int = 0
    segmentations: int = 0
    duplicates: int = 0
    patients: set[str] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    vendors: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, object]:
        """Return the plain object for the report file."""
        return {
            "images": self.images,
            "segmentations": self.segmentations,
            "duplicates": self.duplicates,
            "patients": len(self.patients),
            "refused": dict(self.refused),
            "elements": dict(self.rules),
            "vendors": dict(self.vendors),
        }


def import_images(
    files: Iterable[Incoming],
    labels: Labels,
    secret: bytes,
    store: Path,
    child: Isolated,
    patients: PatientMap | None = None,
    progress: "Progress | None" = None,
    *,
    labelled: bool = True,
) -> ImportReport:
    """De-identify and store every usable file and return the report.

    Args:
        patients: stores the patient behind each pseudonym.
        progress: is told which studies another import should try again.
        labelled: refuse images without a label; those whose structures are segmented need none.

    Guarantees: one bad file never ends the import; nothing is written outside `store`; every file is counted once.

    Raises:
        DataError: the store cannot be written.
    """
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    report = ImportReport()
    finder = _PseudonymousLabels(labels, secret)
    with _LabelFile(store / LABELS) as known:
        for incoming in files:
            try:
                if isinstance(incoming.data, UnreadableImage):
                    raise incoming.data
                clean = child.clean(incoming.data)
                label = finder.find(incoming.name, clean)
                if label is None and labelled and not clean.annotation:
                    raise UnreadableImage("unlabelled", "no label for this file, its study or its patient")
                key = f"{clean.name[:2]}/{clean.name}.dcm"
                if patients is not None:
                    patients.remember(clean.patient, clean.sealed_patient)
                if label is not None and not clean.annotation:
                    # Before the image: a crash in between leaves an unused label, never a missing one.
                    known.put(key, label)
                if _store(store / key, clean.data):
                    report.images += not clean.annotation
                    report.segmentations += clean.annotation
                else:
                    report.duplicates += 1
                report.patients.add(clean.patient)
                report.rules.update(clean.counts)
                report.vendors[clean.vendor] += 1
            except UnreadableImage as problem:
                report.refused[problem.reason] += 1
                if progress is not None and problem.reason in WORTH_ANOTHER_TRY:
                    progress.unfinished(incoming.study)
    return report


def _store(path: Path, data: bytes) -> bool:
    """Write a file atomically unless it exists; return whether it was new."""
    if path.exists():
        return False
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as problem:
        raise DataError(
            f"A de-identified image cannot be stored: {problem.strerror}.",
            remedy="Free disk space, then run the import again.",
        ) from None
    return True


class _LabelFile:
    """The store's own labels, one row per image; the newest row of an image counts, and a row truncated by a crash is ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, tuple[str, str]] = {}
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self._rows = {
                    row[0]: (read_cell(row[1]), read_cell(row[2]))
                    for row in csv.reader(file)
                    if len(row) == 3 and row[0] != "file"
                }

    def __enter__(self) -> "_LabelFile":
        self._rewrite()
        self._file = self._path.open("a", newline="", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._rewrite()

    def put(self, key: str, label: tuple[str, str]) -> None:
        """Write an image's label, on disk when this returns."""
        if self._rows.get(key) != label:
            self._rows[key] = label
            csv.writer(self._file).writerow([key, *map(write_cell, label)])
            self._file.flush()
            os.fsync(self._file.fileno())

    def _rewrite(self) -> None:
        partial = self._path.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            rows = ([key, *map(write_cell, row)] for key, row in self._rows.items())
            csv.writer(file).writerows([["file", "label", "split"], *rows])
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)


class _PseudonymousLabels:
    """Finds a label by file name, or by the pseudonyms of study and patient."""

    def __init__(self, labels: Labels, secret: bytes) -> None:
        self._labels = labels
        self._studies = {pseudonym(secret, "study", key): key for key in labels.keys("StudyInstanceUID")}
        self._patients = {pseudonym(secret, "patient", key): key for key in labels.keys("PatientID")}

    def find(self, name: str, clean: Clean) -> tuple[str, str] | None:
        row = self._labels.find(
            file=name, study=self._studies.get(clean.study, ""), patient=self._patients.get(clean.patient, "")
        )
        return None if row is None else (row.label, row.split)


def from_folder(root: Path) -> Iterator[Incoming]:
    """Yield every regular file below `root`; links are not followed, and DICOMDIR entries are ignored."""
    for path in sorted(root.rglob("*")):
        if path.name.upper() in SKIPPED_NAMES or path.suffix.lower() in SKIPPED_SUFFIXES or path.is_symlink():
            continue
        with contextlib.suppress(OSError):
            if not stat.S_ISREG(path.lstat().st_mode):
                continue
        yield Incoming(path.relative_to(root).as_posix(), _read(path))


def _read(path: Path) -> bytes | UnreadableImage:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return UnreadableImage("too-large", f"more than {MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except OSError:
        return UnreadableImage("unreadable", "the file cannot be read")


def from_zip(path: Path) -> Iterator[Incoming]:
    """Yield every member of a zip, read in memory; names of members are never used as paths.

    Raises:
        DataError: not a zip, or too many members.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile):
        raise DataError(f"Expected a zip in {path.name!r}.", remedy="Check the path.") from None
    with archive:
        members = archive.infolist()
        if len(members) > MAX_ZIP_MEMBERS:
            raise DataError(
                f"Expected at most {MAX_ZIP_MEMBERS} members in the zip, got {len(members)}.", remedy="Split the zip."
            )
        for member in members:
            name = member.filename
            if member.is_dir() or Path(name).suffix.lower() in SKIPPED_SUFFIXES or Path(name).name in SKIPPED_NAMES:
                continue
            yield Incoming(name, _member(archive, member))


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | UnreadableImage:
    if member.file_size > MAX_FILE_BYTES or member.file_size > MAX_ZIP_RATIO * max(1, member.compress_size):
        return UnreadableImage("zip-bomb", "a member expands beyond its limits")
    try:
        with archive.open(member) as file:
            data = file.read(member.file_size + 1)  # the header may be wrong; not a byte more is expanded
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError):
        return UnreadableImage("damaged", "a member of the zip cannot be read")
    except Exception:  # zlib.error and whatever other decompressors raise
        return UnreadableImage("damaged", "a member of the zip cannot be read")
    return (
        data
        if len(data) <= member.file_size
        else UnreadableImage("zip-bomb", "a member is larger than its header declares")
    )


class Progress:
    """Which studies of a source are finished, so that an interrupted import can be resumed; pseudonyms only."""

    def __init__(self, store: Path, secret: bytes) -> None:
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path, self._secret = store / PROGRESS, secret
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._done: set[str] = set()
        self._unfinished: set[str] = set()
        for line in lines:
            with contextlib.suppress(ValueError):  # the last line of an interrupted run may be truncated
                self._done.add(str(json.loads(line)))

    def finished(self, study: str) -> bool:
        """Return whether a study was finished before."""
        return pseudonym(self._secret, "study", study) in self._done

    def unfinished(self, study: str) -> None:
        """Note that a file of a study was refused for a reason that may be temporary; the next import tries the study again."""
        self._unfinished.add(study)

    def finish(self, study: str) -> None:
        """Remember that every file of a study was stored, or refused for good."""
        if study in self._unfinished:
            return
        name = pseudonym(self._secret, "study", study)
        self._done.add(name)
        with self._path.open("a") as file:
            file.write(json.dumps(name) + "\n")
            file.flush()
            os.fsync(file.fileno())
