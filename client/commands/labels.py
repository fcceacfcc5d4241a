"""What `salus dataset labels` does: numbers out of SEG and SR objects, decoded in the child, into a label file."""

import csv
import os
from collections import Counter
from pathlib import Path

from salus.client.data.importing import from_folder
from salus.client.data.isolation import Isolated
from salus.common.errors import DataError, UnreadableImage


def write_labels(source: Path, output: Path, name: str, above: float | None) -> dict[str, int]:
    """Write ``StudyInstanceUID,PatientID,label`` for every study with a number of this name; return counts.

    Of several numbers of one study the largest counts. The file holds identifiers, as the hospital's own label files do: it
    is written readable by its owner only and is not copied into a site's folder.

    Raises:
        DataError: no folder, or no such number in it; the names that are there are listed.
    """
    if not source.is_dir():
        raise DataError(f"Expected a folder at {source.name!r}, but there is nothing.", remedy="Check the path.")
    found: dict[str, tuple[str, float]] = {}
    names: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    with Isolated() as child:
        for incoming in from_folder(source):
            try:
                if isinstance(incoming.data, UnreadableImage):
                    raise incoming.data
                for item in child.annotations(incoming.data):
                    names[item.name] += 1
                    if item.name == name:
                        before = found.get(item.study, (item.patient, item.value))
                        found[item.study] = (item.patient, max(before[1], item.value))
            except UnreadableImage as problem:
                refused[problem.reason] += 1
    if not found:
        listed = ", ".join(sorted(names)[:20]) or "none"
        raise DataError(f"Found no number named {name!r}; there are: {listed}.", remedy="Correct --name.")
    partial = output.with_name(output.name + ".partial")
    with os.fdopen(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("StudyInstanceUID", "PatientID", "label"))
        for study, (patient, value) in sorted(found.items()):
            writer.writerow((study, patient, f"{value:g}" if above is None else int(value > above)))
    partial.replace(output)
    return {"studies": len(found), **{f"not used: {reason}": count for reason, count in refused.items()}}
