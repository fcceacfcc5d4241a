"""A table: one CSV, or a folder of CSV or ``.data`` files in which each file is one group (a hospital)."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np

from salus.client.data.records import PATIENT_BY, FloatArray, ImageRecord, Quarantined, Sample, picture_key
from salus.client.data.sources.base import Files
from salus.client.data.sources.label_file import lines_of
from salus.client.data.sources.labels import (
    check_person_columns,
    not_read_as_patients,
    overlooked_column,
    person_of,
    with_event,
)
from salus.client.data.sources.settings import TableSettings
from salus.common.errors import DataError, UnreadableImage

LARGEST = 1e30  # float32 holds it; a measurement never reaches it
ID_COLUMNS = ("PatientID", "patient", "pid")  # of patients; the operator may name another one


class Table:
    """One sample per row; the label column and the inputs are named by the operator. Every distinct row is a patient unless
    an identifier says otherwise.

    A file with a header names its columns itself; one without takes the names from the options, in order, the label's included.
    """

    Settings = TableSettings

    @staticmethod
    def prepare() -> None:
        """Do nothing: everything needed is loaded with this module."""

    def __init__(self, files: Files, options: TableSettings) -> None:
        self._options = options
        names = list(files.names())
        tables = names if len(names) == 1 else [name for name in names if _is_table(name)]
        if not tables:
            raise DataError("Expected CSV files in the data folder, found none.", remedy="Check the path.")
        self._rows: dict[str, list[dict[str, str]]] = {name: self._read(files, name) for name in tables}

    def _read(self, files: Files, name: str) -> list[dict[str, str]]:
        try:
            read = lines_of(files.read(name), name)
        except UnreadableImage:
            raise DataError(f"Cannot read the table {name!r}.", remedy="Check the file.") from None
        lines = [list(line) for line in read.lines]
        named = bool(lines) and (self._options.label_column in lines[0] or self._headed(lines[0]))
        header = lines[0] if named else list(self._options.columns)
        if self._options.label_column not in header and not self._options.unlabelled:
            raise DataError(
                f"Expected a column {self._options.label_column!r} in {name!r}.",
                remedy="Name the label column with --label-column, and all columns with --columns if there is no header.",
            )
        if len(set(header)) != len(header):
            raise DataError(f"Two columns of {name!r} have the same name.", remedy="Rename one.")
        self._check_patients(header, name)
        check_person_columns(header, self._options, name)
        body = lines[1:] if named else lines
        # A ragged line becomes an empty row, which the scan quarantines: its cells cannot be assigned to columns.
        return [
            dict(zip(header, (read.number(cell.strip()) for cell in line), strict=True))
            if len(line) == len(header)
            else {}
            for line in body
        ]

    def _headed(self, line: list[str]) -> bool:
        """Return whether the first line of an unlabelled table is a header: no cell of it is a number or missing."""
        cells = [cell.strip() for cell in line]
        return self._options.unlabelled and not any(
            cell in self._options.missing or cell.lstrip("+-.")[:1].isdigit() for cell in cells
        )

    def _check_patients(self, header: list[str], name: str) -> None:
        if self._options.unlabelled:
            return  # nobody's budget is counted
        wanted = self._options.patient_column
        if wanted and wanted not in header:
            raise DataError(f"Expected a column {wanted!r} in {name!r}.", remedy="Check --patient-column.")
        read = (self._options.label_column, self._options.event_column, *self._options.columns)
        found = overlooked_column(header, read)
        if not wanted and found and not set(ID_COLUMNS) & set(header):
            raise not_read_as_patients(found, f"Every row of {name!r} would count as its own patient")

    @property
    def _ids(self) -> tuple[str, ...]:
        return (self._options.patient_column,) if self._options.patient_column else ID_COLUMNS

    def wants(self, name: str) -> bool:
        """Return whether a file is one of the tables."""
        return name in self._rows

    def group(self, name: str) -> str:
        """Return nothing: each table stands for itself."""
        return ""

    def examine(self, names: Sequence[str]) -> Iterator[ImageRecord | Quarantined]:
        """Yield every row."""
        for name in names:
            for number, row in enumerate(self._rows[name]):
                key = f"{name}/{number}"
                try:
                    if not row:
                        raise UnreadableImage("ragged", "the line has more or fewer cells than the header")
                    self._values(row)
                    label = self._label(row)
                except UnreadableImage as problem:
                    yield Quarantined(key, problem.reason, problem.detail)
                    continue
                digest = _digest(row)
                patient = next((row[column] for column in self._ids if row.get(column)), "")
                info: dict[str, str | float | int | list[float]] = {} if patient else {PATIENT_BY: "row"}
                patient = patient or picture_key(digest)
                info |= person_of(row, self._options)
                yield ImageRecord(patient, patient, key, label, row.get("split", ""), digest, group=name, info=info)

    def _label(self, row: dict[str, str]) -> str:
        if self._options.unlabelled:
            return ""
        label = row.get(self._options.label_column, "")
        if label in self._options.missing:
            raise UnreadableImage("unlabelled", "the row has no label")
        if self._options.event_column:
            return with_event(label, row, self._options)
        if self._options.positive_above is None:
            return label
        try:
            return str(int(float(label) > self._options.positive_above))
        except ValueError:
            raise UnreadableImage("bad-label", "the label is not a number") from None

    def _inputs(self) -> list[str]:
        first = next((rows[0] for rows in self._rows.values() if rows), {})
        named = self._options.columns or tuple(first)
        left_out = {self._options.label_column, self._options.event_column, "split", *ID_COLUMNS, *self._ids}
        return [column for column in named if column not in left_out]

    def _values(self, row: dict[str, str]) -> FloatArray:
        numbers = []
        for column in self._inputs():
            cell = row.get(column, "")
            if cell in self._options.missing:
                numbers.append(np.nan)
                continue
            try:
                numbers.append(float("_" if "_" in cell else cell))  # Python reads 1_5 as 15
            except ValueError:
                raise UnreadableImage("not-a-number", f"column {column!r} contains text") from None
            if not abs(numbers[-1]) < LARGEST:
                raise UnreadableImage(
                    "not-finite", f"column {column!r} contains a number that is not finite or is too large"
                )
        return np.array(numbers, dtype=np.float32)

    def load(self, key: str) -> Sample:
        """Return ``[columns]``, NaN where missing."""
        name, _, number = key.rpartition("/")
        try:
            row = self._rows[name][int(number)]
            return Sample(self._values(row), columns=tuple(self._inputs()), sha256=_digest(row))
        except (KeyError, ValueError, IndexError):
            raise UnreadableImage("missing", "the table no longer has this row") from None


def _is_table(name: str) -> bool:
    return "/" not in name and PurePosixPath(name).suffix in (".csv", ".data")


def _digest(row: dict[str, str]) -> str:
    return hashlib.sha256(repr(sorted(row.items())).encode()).hexdigest()
