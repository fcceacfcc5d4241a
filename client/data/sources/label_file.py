"""Reads a CSV as spreadsheets write it: which encoding, which separator, which decimal sign.

encoding    UTF-8, with or without a byte order mark; UTF-16 with one; otherwise Windows-1252, which most spreadsheets use
separator   comma, semicolon or tab: the one that splits the first line into most columns; ``sep=;`` is understood
decimals    a comma, where it does not separate columns
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from salus.common.errors import DataError

SEPARATORS = (",", ";", "\t")
STATED = re.compile(r'^"?sep=(?P<separator>[,;\t])"?$', re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Lines:
    """The lines of a CSV that are not empty.

    Args:
        separator: between the columns.
    """

    separator: str = ","
    lines: Sequence[Sequence[str]] = field(default_factory=list)

    @property
    def decimal_commas(self) -> bool:
        """Whether a comma may be a decimal sign."""
        return self.separator != ","

    def number(self, cell: str) -> str:
        """Return a number's text with a decimal point; any other text is returned as it is."""
        return cell.replace(",", ".") if self.decimal_commas and DECIMAL_COMMA.fullmatch(cell) else cell

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield every line after the first by the columns of the first, with its number; missing cells are empty.

        Raises:
            DataError: a line with more cells than columns; with an unquoted decimal comma, its label would be cut in two.
        """
        header = [name.strip() for name in self.lines[0]] if self.lines else []
        for number, line in enumerate(self.lines[1:], start=2):
            if any(cell.strip() for cell in line[len(header) :]):
                raise DataError(
                    f"Expected {len(header)} cells in each line of the CSV, got {len(line)} in line {number}.",
                    remedy="Put cells that contain a comma, such as decimal numbers, in quotes.",
                )
            yield number, dict(zip(header, [*line, *[""] * (len(header) - len(line))], strict=False))


def lines_of(data: bytes | bytearray, name: str) -> Lines:
    """Return the lines of a CSV; raises DataError if it is not text or its quotes are not closed properly."""
    text = _text(bytes(data), name)
    first, _, rest = text.partition("\n")
    stated = STATED.match(first.strip("\r"))
    if stated is not None:
        separator, text = stated["separator"], rest
    else:
        separator = max(SEPARATORS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error:
        raise _unreadable(name) from None
    return Lines(separator, [line for line in lines if line])


def _text(data: bytes, name: str) -> str:
    try:
        if data.startswith(UTF16):
            text = data.decode("utf-16")
        else:
            try:
                text = data.decode("utf-8-sig")
            except UnicodeDecodeError:
                text = data.decode("cp1252")
    except UnicodeDecodeError:
        raise _unreadable(name) from None
    if text.count("\0") > len(text) // 4:  # UTF-16 without a byte order mark, or no text at all
        raise _unreadable(name)
    return text


def _unreadable(name: str) -> DataError:
    return DataError(f"Cannot read {name!r} as a CSV.", remedy="Save it as CSV in UTF-8.")
