"""Labels from a CSV: by file, study or patient, depending on the columns that the file has."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import PurePosixPath

from salus.client.data.identity import normalised
from salus.client.data.records import ORDER
from salus.client.data.sources.base import LABELS, Files
from salus.client.data.sources.label_file import Lines, lines_of
from salus.client.data.sources.label_match import KEY_COLUMNS, PATIENT_COLUMN, LabelRow, Labels, Unlabelled
from salus.client.data.sources.settings import LabelSettings, PersonSettings
from salus.common.cells import read_cell
from salus.common.errors import DataError, UnreadableImage
from salus.common.outcomes import label_of, outcome_of
from salus.common.people import age_years_of, sex_of

USUAL = ("patientid", "patient", "subjectid", "participantid")  # letters of names that can mean nothing else
LIKE_A_PATIENT = re.compile(
    r"(patients?|subjects?|participants?|persons?|individuals?|mrn|pid|pat)(id|ids|no|nr|num|number|code|key|name|uid|identifier)*"
    r"|case(id|no|nr|number)"
)


def person_of(row: Mapping[str, str], options: PersonSettings) -> dict[str, str | int]:
    """Return ``sex`` and ``age_years`` of a row, as far as the options name columns for them and their values are understood."""
    sex = sex_of(row.get(options.sex_column)) if options.sex_column else ""
    years = age_years_of(row.get(options.age_column)) if options.age_column else None
    return {**({"sex": sex} if sex else {}), **({} if years is None else {"age_years": years})}


def ranks_of(cells: Sequence[str], column: str) -> dict[str, int]:
    """Return the rank of each distinct cell that is not empty: all are numbers, or all are dates as 2026-11-27, also with times.

    Raises:
        DataError: they are not.
    """
    distinct = sorted({cell for cell in cells if cell})
    for read in (float, lambda cell: datetime.fromisoformat(cell).timestamp()):
        try:
            values = {cell: float(read(cell)) for cell in distinct}
        except (ValueError, OverflowError):
            continue
        if not all(map(math.isfinite, values.values())):
            continue  # NaN is neither before nor after anything
        places = {value: rank for rank, value in enumerate(sorted(set(values.values())))}
        return {cell: places[value] for cell, value in values.items()}
    raise DataError(
        f"Expected numbers or dates such as 2026-11-27 in the column {column!r}.", remedy="Check order_column."
    )


def with_event(label: str, row: Mapping[str, str], options: PersonSettings) -> str:
    """Return the label of a followed patient, ``538`` or ``538+``; raises UnreadableImage if it is not known how it ended."""
    found = label_of(label, row.get(options.event_column) or "")
    if found is None or outcome_of(found) is None:
        raise UnreadableImage("bad-outcome", "the time is no number, or the event is neither 1 nor 0")
    return found


def check_person_columns(columns: Sequence[str], options: PersonSettings, name: str) -> None:
    """Raise DataError for a column of sex, age or the event that a file lacks."""
    named = (
        ("--sex-column", options.sex_column),
        ("--age-column", options.age_column),
        ("--event-column", options.event_column),
        ("--option order_column", getattr(options, "order_column", "")),
    )
    for option, column in named:
        if column and column not in columns:
            raise DataError(
                f"Expected a column {column!r} in {name!r}{_meant(column, columns)}.", remedy=f"Check {option}."
            )


def has_label_file(files: Files) -> bool:
    """Return whether the data folder holds a label file of the usual name."""
    try:
        return files.size(LABELS) >= 0
    except UnreadableImage:
        return False


def check_patients(labels: Labels) -> None:
    """Raise DataError if every image would count as its own patient although a column seems to name patients."""
    if labels.overlooked:
        count = len(labels.keys("file"))
        raise not_read_as_patients(labels.overlooked, f"{count} patients for {count} images")


def read_labels(files: Files, options: LabelSettings) -> Labels:
    """Read the label file that the options name, or ``labels.csv``; none for unlabelled data.

    Raises:
        DataError: no such file, no key column, no label column, no such patient column, or two labels for one key.
    """
    if options.unlabelled:
        return Unlabelled()
    named = options.labels or LABELS
    name = PurePosixPath(named).name
    try:
        lines = lines_of(files.read(named), name)
    except UnreadableImage as problem:
        if problem.reason == "missing":
            raise DataError(
                f"Expected a label file {name!r} in the data folder, found none.",
                remedy="Name one with --labels, relative to the data folder, such as ../labels.csv; it needs a label and a file, "
                "StudyInstanceUID, PatientID or the like.",
            ) from None
        raise DataError(f"Cannot read the label file {name!r}: {problem.detail}.", remedy="Check the file.") from None
    return _parse(lines, name, options)


def usual_patient_column(columns: Sequence[str]) -> str:
    """Return the column of patients by its usual names, however it is spelt: ``PatientID``, ``patient_id``, ``Subject ID`` ...

    Without one, or with several, it is ``PatientID``, and `overlooked_column` asks for the operator's choice.
    """
    found = [column for column in columns if re.sub(r"[^a-z]", "", column.lower()) in USUAL]
    return found[0] if PATIENT_COLUMN not in columns and len(found) == 1 else PATIENT_COLUMN


def overlooked_column(columns: Sequence[str], read: Sequence[str]) -> str:
    """Return the first of `columns` that looks like a patient column and is not used as one; empty if there is none."""
    others = [column for column in columns if column not in read]
    return next((c for c in others if LIKE_A_PATIENT.fullmatch(re.sub(r"[^a-z]", "", c.lower()))), "")


def not_read_as_patients(column: str, what: str) -> DataError:
    """Return the error for a patient column with an unexpected name: privacy would be counted per image."""
    return DataError(
        f"{what}: is {column!r} the patient column?",
        remedy=f"If it is, add --patient-column {column!r}. If not, name the column that identifies patients, "
        "or rename this one.",
    )


def _meant(name: str, columns: Sequence[str]) -> str:
    """Return the nearest column as a question; no other is named, as a file without a header begins with values."""
    near = difflib.get_close_matches(name, columns, n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _parse(lines: Lines, name: str, options: LabelSettings) -> Labels:
    columns, label_column = [cell.strip() for cell in lines.lines[0]] if lines.lines else [], options.label_column
    patient_column = options.patient_column or usual_patient_column(columns)
    if options.patient_column and options.patient_column not in columns:
        raise DataError(
            f"Expected a column {options.patient_column!r} in the label file {name!r}"
            f"{_meant(options.patient_column, columns)}.",
            remedy="Check --patient-column.",
        )
    check_person_columns(columns, options, name)
    present = [*columns, *([PATIENT_COLUMN] if patient_column in columns else [])]
    keys = [column for column in KEY_COLUMNS if column in present]
    for column in (*options.cells, *(() if options.cells else (label_column,))):
        if column not in columns:
            raise DataError(
                f"Expected a column {column!r} in the label file {name!r}{_meant(column, columns)}.",
                remedy="Name the column of labels with --label-column, and other columns by their names in the file.",
            )
    _check_repeated(columns, patient_column, options, name)
    if not keys:
        raise DataError(
            f"Expected one of the columns {', '.join(KEY_COLUMNS)} in the label file {name!r}, "
            f"found {len(columns)} columns without them.",
            remedy="Rename the column that identifies the images of a label.",
        )
    by: dict[str, dict[str, LabelRow]] = {column: {} for column in keys}
    order = options.order_column
    ranks = ranks_of([lines.number(_cell(row, order)) for _, row in lines.rows()] if order else [], order)
    for number, row in lines.rows():
        if PATIENT_COLUMN in keys:
            row[PATIENT_COLUMN] = zero_padded(row.get(patient_column) or "", options.zero_pad_ids)
        key = next((column for column in keys if row.get(column)), None)
        label = lines.number(_cell(row, label_column))
        if options.event_column and label:
            label = label_of(label, row.get(options.event_column) or "") or ""  # not known how it ended: no label
        numeric = {*options.numbers, *options.row}
        cells = {c: lines.number(_cell(row, c)) if c in numeric else _cell(row, c) for c in options.cells}
        if key is None or not (label or any(cells.values())):
            continue  # a row without a label is skipped; its images are counted as unlabelled
        person, split, group = person_of(row, options), _cell(row, "split"), _cell(row, "group")
        person |= {ORDER: ranks[at]} if order and (at := lines.number(_cell(row, order))) else {}
        entry = LabelRow(label, _cell(row, PATIENT_COLUMN), split, cells, person, group)
        earlier = by[key].setdefault(normalised(_cell(row, key)), entry)
        if (earlier.label, earlier.cells) != (label, cells):
            raise DataError(
                f"Two different labels for one {key} in {name!r}, line {number}.", remedy="Keep one of them."
            )
        if earlier.person != entry.person:
            raise DataError(
                f"Two different ages, sexes or places in the order for one {key} in {name!r}, line {number}.",
                remedy="Correct one of them.",
            )
    read = (*KEY_COLUMNS, label_column, "split", "group", *options.cells, *_person_columns(options))
    return Labels(by, "" if PATIENT_COLUMN in keys else overlooked_column(columns, read), name)


def _person_columns(options: LabelSettings) -> tuple[str, ...]:
    return options.sex_column, options.age_column, options.event_column


def _check_repeated(columns: Sequence[str], patient_column: str, options: LabelSettings, name: str) -> None:
    known = (*KEY_COLUMNS, patient_column, options.label_column, "split", "group", options.order_column)
    used = {*known, *options.cells, *_person_columns(options)}
    repeated = sorted(column for column in used if columns.count(column) > 1)
    if repeated:
        raise DataError(
            f"The label file {name!r} has several columns {repeated[0]!r}.",
            remedy="Rename or remove all but one of them.",
        )


def zero_padded(identifier: str, digits: int) -> str:
    """Return an identifier of digits with leading zeros up to this length; any other one unchanged."""
    identifier = identifier.strip()
    return identifier.zfill(digits) if identifier.isascii() and identifier.isdigit() else identifier


def _cell(row: "dict[str, str]", column: str) -> str:
    return read_cell((row.get(column) or "").strip())
