"""Labels in a CSV beside the images: by file, by study or by patient, whichever column the file has."""

import csv
from dataclasses import dataclass
from pathlib import Path

from salus.client.data.sources.base import SourceOptions
from salus.common.errors import DataError

KEY_COLUMNS = ("file", "StudyInstanceUID", "PatientID")  # the most specific one wins


@dataclass(frozen=True)
class LabelRow:
    """One row: its label and, where the file has such columns, patient and split."""

    label: str
    patient: str = ""
    split: str = ""


class Labels:
    """A label file, looked up by file name, StudyInstanceUID or PatientID."""

    def __init__(self, by: dict[str, dict[str, LabelRow]]) -> None:
        self._by = by

    def keys(self, column: str) -> list[str]:
        """Return every value of a key column, empty if the file has no such column."""
        return list(self._by.get(column, {}))

    def find(self, *, file: str = "", study: str = "", patient: str = "") -> LabelRow | None:
        """Return the most specific row, or None."""
        for column, value in zip(KEY_COLUMNS, (file, study, patient), strict=True):
            row = self._by.get(column, {}).get(value)
            if row is not None:
                return row
        return None


def read_labels(root: Path, options: SourceOptions) -> Labels:
    """Read the label file named in the options, or ``labels.csv`` in the root.

    Raises:
        DataError: no such file, no key column, no label column, or two labels for one key.
    """
    path = root / (options.labels or "labels.csv")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _parse(csv.DictReader(file), path.name, options.label_column)
    except FileNotFoundError:
        raise DataError(
            f"Expected a label file {path.name!r} in the data folder.",
            remedy="Name one with --labels; it needs a column file, StudyInstanceUID or PatientID, and one of labels.",
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error):
        raise DataError(f"Cannot read the label file {path.name!r}.", remedy="Save it as UTF-8 CSV.") from None


def _parse(rows: "csv.DictReader[str]", name: str, label_column: str) -> Labels:
    columns = rows.fieldnames or []
    keys = [column for column in KEY_COLUMNS if column in columns]
    if not keys or label_column not in columns:
        raise DataError(
            f"Expected the columns {label_column!r} and one of {', '.join(KEY_COLUMNS)} in {name!r}, "
            f"found {len(columns)} columns without them.",
            remedy="Rename the columns, or name the label column with --label-column.",
        )
    by: dict[str, dict[str, LabelRow]] = {column: {} for column in keys}
    for number, row in enumerate(rows, start=2):
        key = next((column for column in keys if row.get(column)), None)
        label = (row.get(label_column) or "").strip()
        if key is None or not label:
            continue  # an unlabelled row labels nothing; its images are counted as unlabelled
        entry = LabelRow(label, (row.get("PatientID") or "").strip(), (row.get("split") or "").strip())
        earlier = by[key].setdefault(row[key].strip(), entry)
        if earlier.label != label:
            raise DataError(
                f"Two different labels for one {key} in {name!r}, line {number}.", remedy="Keep one of them."
            )
    return Labels(by)
