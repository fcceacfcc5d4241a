"""Results as CSV, which a spreadsheet reads as text and numbers and never as formulas."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from salus.common.cells import write_cell
from salus.common.files import write_whole


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Write a CSV with a header, UTF-8, completely or not at all; numbers have as many digits as they need, at most six.

    Args:
        rows: values by column; a column that a row does not have is empty.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow([write_cell(column) for column in columns])
    writer.writerows([[_cell(row.get(column, "")) for column in columns] for row in rows])
    write_whole(path, buffer.getvalue().encode())


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else write_cell(str(value))
