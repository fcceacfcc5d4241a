"""Annotations from the columns of a label file: numbers to predict, a row to give to the model, a text, a time series."""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from salus.client.data.records import Sample
from salus.client.data.sources.base import Files
from salus.client.data.sources.label_match import LabelRow
from salus.client.data.sources.settings import LabelSettings
from salus.client.data.targets import MAX_NAMES, Target
from salus.common.declaration import TargetKind
from salus.common.errors import UnreadableImage

LARGEST = 1e30  # float32 holds it; a measurement never reaches it
MAX_TEXT_BYTES = 100_000
MAX_SERIES_BYTES = 2**24
MAX_SERIES_VALUES = 2**20
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Extra:
    """What the columns of one row become.

    Args:
        digest: of the values, empty for none.
    """

    arrays: dict[str, Array] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    targets: dict[str, Target] = field(default_factory=dict)
    digest: str = ""

    def on(self, sample: Sample) -> Sample:
        """Return a sample with these annotations, and a hash that covers them."""
        if not self.targets:
            return sample
        kinds: dict[str, TargetKind] = {name: target.kind for name, target in self.targets.items()}
        return replace(
            sample,
            sha256=with_digest(sample.sha256, self.digest),
            targets={**sample.targets, **self.arrays},
            kinds={**sample.kinds, **kinds},
            names={**sample.names, **self.names},
        )


def with_digest(sha256: str, digest: str) -> str:
    """Return a hash of a sample's hash and that of its annotations; the first without the second."""
    return hashlib.sha256(f"{sha256}{digest}".encode()).hexdigest() if digest else sha256


def extra_of(row: LabelRow | None, files: Files, options: LabelSettings) -> Extra:
    """Return the annotations in a row of the label file; none without a row, and none that the options do not name.

    Raises:
        UnreadableImage: ``not-a-number``, ``not-finite``, ``too-large``, or a series that cannot be read.
    """
    if row is None:
        return Extra()
    arrays: dict[str, Array] = {}
    names: dict[str, tuple[str, ...]] = {}
    targets: dict[str, Target] = {}
    kinds: tuple[tuple[TargetKind, Sequence[str]], ...] = (("numbers", options.numbers), ("row", options.row))
    for kind, columns in kinds:
        if columns:
            values = np.array([_number(row.cells.get(column, ""), column, options) for column in columns], np.float32)
            arrays[kind], names[kind] = values, tuple(columns)
            targets[kind] = Target(kind, {c: float(np.isfinite(v)) for c, v in zip(columns, values, strict=True)})
    text = row.cells.get(options.text, "") if options.text else ""
    if text:
        data = text.encode()
        if len(data) > MAX_TEXT_BYTES:
            raise UnreadableImage("too-large", f"a text of more than {MAX_TEXT_BYTES} bytes")
        arrays["text"], targets["text"] = np.frombuffer(data, np.uint8), Target("text", {options.text: 1.0})
    place = row.cells.get(options.series, "") if options.series else ""
    if place:
        columns, values = _series(files, place, options)
        arrays["series"], names["series"] = values, columns
        targets["series"] = Target("series", {c: float(np.isfinite(values[:, i]).any()) for i, c in enumerate(columns)})
    return Extra(arrays, names, targets, _digest(arrays, names))


def _digest(arrays: dict[str, Array], names: dict[str, tuple[str, ...]]) -> str:
    if not arrays:
        return ""
    parts = [[name, names.get(name, ()), hashlib.sha256(array.tobytes()).hexdigest()] for name, array in arrays.items()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _number(cell: str, column: str, options: LabelSettings) -> float:
    if cell in options.missing:
        return float("nan")
    try:
        number = float("_" if "_" in cell else cell)  # Python reads 1_5 as 15
    except ValueError:
        raise UnreadableImage("not-a-number", f"column {column!r} contains text") from None
    if not abs(number) < LARGEST:
        raise UnreadableImage("not-finite", f"column {column!r} contains a number that is not finite or is too large")
    return number


def _series(files: Files, place: str, options: LabelSettings) -> tuple[tuple[str, ...], Array]:
    """Return the columns of a CSV file with a header, and its values ``[times, columns]``."""
    if files.size(place) > MAX_SERIES_BYTES:
        raise UnreadableImage("too-large", f"a series of more than {MAX_SERIES_BYTES} bytes")
    try:
        lines = list(csv.reader(io.StringIO(bytes(files.read(place)).decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error):
        raise UnreadableImage("damaged", "a series that is not UTF-8 CSV") from None
    lines = [line for line in lines if line]
    if not lines or len(lines[0]) > MAX_NAMES or len(lines) * len(lines[0]) > MAX_SERIES_VALUES:
        raise UnreadableImage("too-large", "a series without a header, or with too many values")
    header = tuple(name.strip() for name in lines[0])
    if len(set(header)) != len(header) or any(len(line) != len(header) for line in lines):
        raise UnreadableImage(
            "ragged", "a series with a repeated column, or with a line of another length than its header"
        )
    values = [
        [_number(cell.strip(), column, options) for cell, column in zip(line, header, strict=True)]
        for line in lines[1:]
    ]
    return header, np.array(values, np.float32).reshape(-1, len(header))
