"""Implements `salus dataset labels`: numbers from SEG and SR objects, decoded in the child process, into a label file."""

import csv
import os
import tempfile
from collections import Counter
from pathlib import Path

from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.incoming.files import from_folder
from salus.common.cells import write_cell
from salus.common.errors import DataError, UnreadableImage


def write_labels(source: Path, output: Path, name: str, above: float | None) -> dict[str, int]:
    """Write ``StudyInstanceUID,PatientID,label`` for every study with a number of this name; return counts.

    If a study has several numbers, the largest is used. The file contains identifiers, as the hospital's own label files do, so
    only its owner can read it, and it is not copied into a site's folder.

    Raises:
        DataError: no folder, or no such number in it; lists the names found.
    """
    if not source.is_dir():
        raise DataError(f"Expected a folder at {source.name!r}, found nothing.", remedy="Check the path.")
    found: dict[tuple[str, str], float] = {}
    names: Counter[str] = Counter()
    units: set[str] = set()
    refused: Counter[str] = Counter()
    with Isolated() as child:
        for incoming in from_folder(source):
            try:
                if isinstance(incoming.data, UnreadableImage):
                    raise incoming.data
                for item in child.annotations(incoming.data):
                    names["".join(letter for letter in item.name if letter.isprintable())] += 1
                    if item.name == name:
                        key = item.study, item.patient
                        found[key] = max(found.get(key, item.value), item.value)
                        units.add(item.unit)
            except UnreadableImage as problem:
                refused[problem.reason] += 1
    if len(units) > 1:
        raise DataError(
            f"The numbers named {name!r} are in different units.",
            remedy="Convert them to one unit, or process the objects of each unit separately.",
        )
    if not found:
        listed = ", ".join(sorted(names)[:20]) or "none"
        raise DataError(f"Expected a number named {name!r}, found: {listed}.", remedy="Correct --name.")
    handle, partial = tempfile.mkstemp(dir=output.parent, prefix=".labels-")  # a new file that only its owner can read
    with os.fdopen(handle, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("StudyInstanceUID", "PatientID", "label"))
        for (study, patient), value in sorted(found.items()):
            writer.writerow(
                (write_cell(study), write_cell(patient), f"{value:g}" if above is None else int(value > above))
            )
    Path(partial).replace(output)
    return {"studies": len(found), **{f"not used: {reason}": count for reason, count in refused.items()}}
