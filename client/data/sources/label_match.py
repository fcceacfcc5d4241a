"""Rows of a label file, and which images they match; what matches nothing, and what would match two patients, is named."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from salus.client.data.identity import normalised, without_leading_zeros
from salus.client.data.records import Quarantined
from salus.client.data.sources.accompanying import UNMATCHED
from salus.common.errors import DataError

# The columns by which a row is matched; the most specific one wins.
KEY_COLUMNS = ("file", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID")
PATIENT_COLUMN = "PatientID"
OWNED = ("file", "AccessionNumber")  # may be repeated: a name in two folders, a number used twice
NOBODY = "unknown"  # the patient of data that are read without labels, where the files themselves name none
MAX_REMEMBERED = 100_000  # patients without a label, and rows without an image
NO_IMAGE = "no image has this value, or each of its images has a more specific row"


@dataclass(frozen=True)
class LabelRow:
    """One row: its label and, where the file has such columns, patient, split and group.

    Args:
        cells: of the columns with other annotations.
        person: sex and age, see `person_of`.
        group: the hospital, in simulations that divide patients by it.
    """

    label: str
    patient: str = ""
    split: str = ""
    cells: Mapping[str, str] = field(default_factory=dict)
    person: Mapping[str, str | int] = field(default_factory=dict)
    group: str = ""


class Labels:
    """A label file, looked up by one of `KEY_COLUMNS`.

    Args:
        by: rows by column and by `normalised` value.
        overlooked: a column that looks like a patient column but was not used as one, or empty.
        name: of the file, for the operator.
    """

    def __init__(
        self, by: Mapping[str, Mapping[str, LabelRow]], overlooked: str = "", name: str = "labels.csv"
    ) -> None:
        self._by, self.overlooked, self.name = by, overlooked, name
        self._used: dict[str, set[str]] = {column: set() for column in by}
        self._owners: dict[tuple[str, str], str] = {}
        self._shared: dict[str, set[str]] = {}
        self._without: set[str] = set()

    def keys(self, column: str) -> list[str]:
        """Return every value of a key column, empty if the file has no such column."""
        return list(self._by.get(column, {}))

    def find(
        self,
        *,
        file: str = "",
        instance: str = "",
        series: str = "",
        study: str = "",
        accession: str = "",
        patient: str = "",
        owner: str = "",
    ) -> LabelRow | None:
        """Return the most specific row, or None.

        Args:
            owner: to whom a row by file name or AccessionNumber may belong only: a patient, or the file's whole name.
        """
        values = (file, instance, series, study, accession, patient)
        for column, value in zip(KEY_COLUMNS, map(normalised, values), strict=True):
            row = self._by.get(column, {}).get(value) if value else None
            if row is not None:
                self._used[column].add(value)
                if owner and column in OWNED and self._owners.setdefault((column, value), owner) != owner:
                    self._shared.setdefault(column, set()).add(value)
                return row
        if patient and len(self._without) < MAX_REMEMBERED:
            self._without.add(normalised(patient))
        return None

    def unmatched(self) -> Iterator[Quarantined]:
        """Yield the rows that no image has matched so far; raises DataError as `check_matches`."""
        self.check_matches()
        yield from self.rest()

    def rest(self) -> Iterator[Quarantined]:
        """Yield the rows that no image has matched so far."""
        left = MAX_REMEMBERED
        for column, rows in self._by.items():
            for value in rows:
                if value not in self._used[column] and left > 0:
                    left -= 1
                    yield Quarantined(f"{self.name}: {column} {value}"[:1000], UNMATCHED, NO_IMAGE)

    def check_matches(self) -> None:
        """Check how the rows matched, once every image was looked up.

        Raises:
            DataError: a row matched two patients or files, or patients lack a label only because of leading zeros.
        """
        for column, values in self._shared.items():
            raise DataError(
                f"{len(values)} row(s) of the label file {self.name!r} match by {column} what belongs to different "
                "patients or files.",
                remedy="Name these images by StudyInstanceUID, or by their file with its folders.",
            )
        rows = {value for value in self._by.get(PATIENT_COLUMN, {}) if value not in self._used[PATIENT_COLUMN]}
        raise_for_zeros(
            self.name, [identifier for identifier in self._without if without_leading_zeros(identifier) in rows]
        )


def raise_for_zeros(name: str, identifiers: list[str]) -> None:
    """Raise DataError if images of patients with these identifiers lack a label that they have without leading zeros."""
    if identifiers:
        lengths = sorted({len(identifier) for identifier in identifiers})
        raise DataError(
            f"{len(identifiers)} patient identifier(s) in the label file {name!r} look like those of images without their "
            "leading zeros, which spreadsheets drop.",
            remedy=f"If they are the same patients, add --zero-pad-ids {lengths[-1]}; otherwise remove their rows."
            if len(lengths) == 1
            else f"The images' identifiers have {lengths[0]} to {lengths[-1]} digits: write the label file with the zeros.",
        )


class Unlabelled(Labels):
    """No labels at all: every image is taken, under a patient that says nothing."""

    def __init__(self) -> None:
        super().__init__({})

    def find(self, **_: str) -> LabelRow | None:
        return LabelRow("", NOBODY)
