"""Import: files from a folder, a zip or a PACS, each de-identified in an isolated child and stored under its content's hash.

    source ─ name, bytes ─> isolated children ─ clean object ─> <store>/<first two digits>/<hash>.dcm
                                           └── reason ──> counted in the report, never fatal

Labels are matched by the pseudonyms of the label file's own identifiers; what is stored with the images identifies no one.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.deidentify import Clean
from salus.client.data.identity import without_leading_zeros
from salus.client.data.incoming.files import Incoming
from salus.client.data.incoming.pipeline import Pipeline, Result
from salus.client.data.incoming.progress import STORED, Progress
from salus.client.data.incoming.storing import Label, Store
from salus.client.data.patient_map import PatientMap
from salus.client.data.pseudonyms import pseudonym
from salus.client.data.records import Quarantined
from salus.client.data.sources.label_match import Labels, raise_for_zeros
from salus.client.data.withdrawals import withdrawn as gone
from salus.common.errors import UnreadableImage

# Objects that the PACS has, or may have, and that are not here: another import may bring them.
MISSING = {"pacs", "pacs-list", "no-study-uid", "no-series-uid", "no-instance-uid"}

MOST_DIGITS = 16  # of a patient identifier that leading zeros are tried for
MAX_NAMED = 100_000  # refused files; all are counted


@dataclass
class ImportReport:
    """What an import did: counts only, no identifier, except for `files`, which stays at the site and is sealed.

    Args:
        found: files that the source yielded; each is an image, a segmentation, a duplicate or refused.
        refused: files by reason.
        left_out: files that were not looked at, such as text files, by the reason.
        listed: ``studies`` and ``objects`` that the PACS lists; empty for other sources.
        earlier: objects that the PACS lists and that an earlier import has stored.
        files: the refused files by name.
        former: patients, each with the pseudonym that an earlier version gave it.
        unmatched: rows of the label file that no image of this import has.
        check_labels: raises DataError for rows that match what they cannot mean.
    """

    images: int = 0
    segmentations: int = 0
    duplicates: int = 0
    found: int = 0
    earlier: int = 0
    patients: set[str] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    vendors: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    listed: Counter[str] = field(default_factory=Counter)
    files: list[Quarantined] = field(default_factory=list)
    former: set[tuple[str, str]] = field(default_factory=set)
    unmatched: list[Quarantined] = field(default_factory=list)
    check_labels: Callable[[], None] = field(default=lambda: None)

    @property
    def missing(self) -> int:
        """How many objects, or parts of its lists, the PACS did not deliver."""
        return sum(count for reason, count in self.refused.items() if reason in MISSING)

    def use(self, clean: Clean, *, is_new: bool) -> None:
        """Count a file that is now in the store."""
        self.images += is_new and not clean.annotation
        self.segmentations += is_new and clean.annotation
        self.duplicates += not is_new
        self.patients.add(clean.patient)
        if clean.others.former:
            self.former.add((clean.patient, clean.others.former))
        self.rules.update(clean.counts)
        self.vendors[clean.vendor] += 1

    def refuse(self, name: str, problem: UnreadableImage) -> None:
        """Count a file that cannot be used, and name it."""
        self.refused[problem.reason] += 1
        if len(self.files) < MAX_NAMED:
            self.files.append(Quarantined(name, problem.reason, problem.detail))

    def to_json(self) -> dict[str, object]:
        """Return the plain object for the report file."""
        return {
            "found": self.found,
            "images": self.images,
            "segmentations": self.segmentations,
            "duplicates": self.duplicates,
            "patients": len(self.patients),
            "refused": dict(self.refused),
            "left_out": dict(self.left_out),
            "label_rows_without_image": len(self.unmatched),
            "pacs": {**self.listed, "stored_before": self.earlier, "missing": self.missing} if self.listed else {},
            "elements": dict(self.rules),
            "vendors": dict(self.vendors),
        }


def import_images(
    files: Iterable[Incoming],
    labels: Labels,
    secret: bytes,
    store: Path,
    children: Sequence[Isolated],
    patients: PatientMap | None = None,
    progress: Progress | None = None,
    *,
    labelled: bool = True,
    withdrawn: Callable[[], frozenset[str]] = frozenset,
) -> ImportReport:
    """De-identify and store every usable file and return the report.

    Args:
        children: work side by side.
        patients: stores the patient behind each pseudonym.
        progress: is told what became of each object of a PACS.
        withdrawn: returns the patients who have withdrawn by now; their files are refused, and nothing of them is stored.
        labelled: refuse images without a label; those whose structures are segmented need none.

    Guarantees: one bad file never ends the import; nothing is written outside `store`; every file is counted once.

    Raises:
        DataError: the store cannot be written.
    """
    report = ImportReport()
    finder = _PseudonymousLabels(labels, secret, labelled=labelled)
    with Store(store) as opened:
        for results in Pipeline(children).batches(files):
            usable, refused = _judged(results, finder, withdrawn())
            if patients is not None:
                patients.remember({clean.patient: clean.sealed_patient for _, clean, _ in usable})
            new = opened.put([(clean, label) for _, clean, label in usable])
            for (_, clean, _), is_new in zip(usable, new, strict=True):
                report.use(clean, is_new=is_new)
            for item, problem in refused:
                report.refuse(item.name, problem)
            if progress is not None:
                progress.put((item.study, item.name, STORED) for item, _, _ in usable)
                progress.put((item.study, item.name, problem.reason) for item, problem in refused)
            report.found += len(results)
    report.unmatched, report.check_labels = finder.unmatched(), finder.check
    if progress is not None:
        report.left_out, report.listed, report.earlier = progress.left_out, progress.listed, progress.earlier
    return report


def _judged(
    results: Sequence[Result], finder: "_PseudonymousLabels", withdrawn: frozenset[str]
) -> tuple[list[tuple[Incoming, Clean, Label | None]], list[tuple[Incoming, UnreadableImage]]]:
    """Return the files that can be used, with their labels, and the others with the reason."""
    usable: list[tuple[Incoming, Clean, Label | None]] = []
    refused: list[tuple[Incoming, UnreadableImage]] = []
    for item, clean in results:
        try:
            if isinstance(clean, UnreadableImage):
                raise clean
            if clean.patient in withdrawn or clean.others.former in withdrawn:
                raise gone()
            usable.append((item, clean, finder.find(item.name, clean)))
        except UnreadableImage as problem:
            refused.append((item, problem))
    return usable, refused


# Kinds of pseudonyms, and the columns of the label file that they stand for.
BY_KIND = {
    "instance": "SOPInstanceUID",
    "series": "SeriesInstanceUID",
    "study": "StudyInstanceUID",
    "accession": "AccessionNumber",
    "patient": "PatientID",
}


def _with_zeros(identifiers: Sequence[str], secret: bytes) -> dict[str, str]:
    """Return identifiers of digits with leading zeros, as a spreadsheet may have dropped them, by their pseudonyms."""
    longer = {
        identifier.zfill(digits)
        for identifier in identifiers
        if identifier == without_leading_zeros(identifier) and identifier.isascii() and identifier.isdigit()
        for digits in range(len(identifier) + 1, MOST_DIGITS + 1)
    }
    return {pseudonym(secret, "patient", identifier): identifier for identifier in longer - set(identifiers)}


class _PseudonymousLabels:
    """Finds a label by file name, or by the pseudonyms of an object's identifiers."""

    def __init__(self, labels: Labels, secret: bytes, *, labelled: bool) -> None:
        self._labels, self._labelled = labels, labelled
        self._keys = {
            kind: {pseudonym(secret, kind, key): key for key in labels.keys(column)} for kind, column in BY_KIND.items()
        }
        self._zeros = _with_zeros(labels.keys("PatientID"), secret)
        self._without: dict[str, str] = {}

    def find(self, name: str, clean: Clean) -> Label | None:
        """Return label and split of an image, or None if it needs none; raises UnreadableImage if it lacks one."""
        if clean.annotation:
            return None
        found = {"patient": clean.patient, "study": clean.study, **vars(clean.others)}
        keys = {kind: known.get(found[kind], "") for kind, known in self._keys.items()}
        row = self._labels.find(file=name, owner=clean.patient, **keys)
        if row is None and clean.patient in self._zeros:
            self._without[clean.patient] = self._zeros[clean.patient]
        if row is None and self._labelled:
            raise UnreadableImage("unlabelled", "no label for this file, its study or its patient")
        return None if row is None else (row.label, row.split)

    def unmatched(self) -> list[Quarantined]:
        """Return the rows that no image of this import has."""
        return list(itertools.islice(self._labels.rest(), MAX_NAMED))

    def check(self) -> None:
        """Raise DataError for rows that match two patients, or that match none because of leading zeros."""
        self._labels.check_matches()
        raise_for_zeros(self._labels.name, sorted(self._without.values()))
