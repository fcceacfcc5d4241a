"""The interface of a source, and the options an operator may give."""

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from salus.client.data.records import ImageRecord, Quarantined, Sample
from salus.common.strict import Strict


class SourceOptions(Strict):
    """How to read a source; kept in the catalogue so that it is read alike later.

    Args:
        labels: CSV of labels, relative to the root or absolute.
        label_column: its column of labels.
        patient_column: its column of patients, or the table's; empty for the usual names.
        volumes: take each DICOM series as one 3-D sample.
        columns: for a table, its input columns; needed where the file has no header.
        missing: for a table, what stands for a missing value.
        positive_above: for a table or for masks, turn the label into ``1`` above this number and ``0`` otherwise.
        masks: for NIfTI, a folder of masks with the names of the images, relative to the root.
    """

    labels: str = ""
    label_column: str = "label"
    patient_column: str = ""
    volumes: bool = False
    columns: tuple[str, ...] = ()
    missing: tuple[str, ...] = ("", "?", "NA", "NaN", "nan")
    positive_above: float | None = None
    masks: str = ""


Stamp = tuple[int, int]  # two halves of a hash


def stamp_of(paths: Iterable[Path]) -> Stamp | None:
    """Return what changes when any of these files is replaced, changed or moved, without reading them; None if one is missing."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            return None
        if not os.access(path, os.R_OK):
            return None
        facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        digest.update(repr((path.name, *facts)).encode("utf-8", "surrogateescape"))
    first, second = struct.unpack("<qq", digest.digest()[:16])
    return first, second


class Source(Protocol):
    """Finds samples and reads them again by key."""

    def scan(self) -> Iterator[ImageRecord | Quarantined]:
        """Yield every sample and every file that cannot be used; never raises for a bad file."""

    def load(self, key: str) -> Sample:
        """Return the sample of `key`; raises UnreadableImage if it is no longer what it was."""

    def stamp(self, key: str) -> Stamp | None:
        """Return what changes when the sample's files do, without reading them; None where they are gone or not worth a cache."""
