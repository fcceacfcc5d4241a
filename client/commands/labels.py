"""Implements `salus dataset labels`: numbers from SEG, RTSTRUCT and SR objects, decoded in the child, into a label file."""

import csv
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.incoming.files import from_folder
from salus.common.cells import write_cell
from salus.common.errors import DataError, UnreadableImage

# Units (UCUM) that measure the same, with the one into which they are converted where numbers come in several of them.
SAME = {
    "mm3": ("ml", 0.001), "cm3": ("ml", 1.0), "cc": ("ml", 1.0), "ml": ("ml", 1.0), "mL": ("ml", 1.0), "l": ("ml", 1000.0),
    "L": ("ml", 1000.0), "um": ("mm", 0.001), "mm": ("mm", 1.0), "cm": ("mm", 10.0), "m": ("mm", 1000.0),
    "mm2": ("mm2", 1.0), "cm2": ("mm2", 100.0),
}  # fmt: skip


@dataclass
class Numbers:
    """What a folder of annotation objects says.

    Args:
        found: numbers of the wanted name by study and patient, with their units.
        names: how often each name occurs.
        refused: files that could not be used, by reason, with the sentence of the first one.
    """

    found: dict[tuple[str, str], list[tuple[float, str]]] = field(default_factory=dict)
    names: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)
    used: int = 0

    def refuse(self, problem: UnreadableImage) -> None:
        """Count a file that cannot be used."""
        self.refused[problem.reason] += 1
        self.details.setdefault(problem.reason, problem.detail)

    @property
    def not_used(self) -> str:
        """A sentence about the files that could not be used; empty if there are none."""
        parts = [f"{count} as {reason} ({self.details[reason]})" for reason, count in sorted(self.refused.items())]
        return f" {self.refused.total()} file(s) were not used: {'; '.join(parts)}." if parts else ""


def write_labels(source: Path, output: Path, name: str, above: float | None) -> dict[str, int | str]:
    """Write ``StudyInstanceUID,PatientID,label`` for every study with a number of this name; return counts.

    If a study has several numbers, the largest is used. The file contains identifiers, as the hospital's own label files do, so
    only its owner can read it, and it is not copied into a site's folder.

    Raises:
        DataError: no folder, no such number in it, or numbers in units that do not measure the same; lists the names found, and
            the files that could not be used.
    """
    if not source.is_dir():
        raise DataError(f"Expected a folder at {source.name!r}, found nothing.", remedy="Check the path.")
    numbers = _numbers(source, name)
    if not numbers.found:
        listed = ", ".join(sorted(numbers.names)[:20]) or "none"
        remedy = (
            "Correct --name." if numbers.names else "Check the files: salus dataset labels reads SEG, RTSTRUCT and SR."
        )
        raise DataError(f"Expected a number named {name!r}, found: {listed}.{numbers.not_used}", remedy=remedy)
    scale, unit = _unit(name, {unit for mine in numbers.found.values() for _, unit in mine})
    found = {key: max(value * scale[unit] for value, unit in mine) for key, mine in numbers.found.items()}
    _write(output, found, above)
    refused = {f"not used: {reason}": count for reason, count in sorted(numbers.refused.items())}
    return {"studies": len(found), "unit": unit, "files used": numbers.used, **refused}


def _numbers(source: Path, name: str) -> Numbers:
    numbers = Numbers()
    with Isolated() as child:
        for incoming in from_folder(source):
            try:
                if isinstance(incoming.data, UnreadableImage):
                    raise incoming.data
                for item in child.annotations(incoming.data):
                    numbers.names["".join(letter for letter in item.name if letter.isprintable())] += 1
                    if item.name == name:
                        numbers.found.setdefault((item.study, item.patient), []).append((item.value, item.unit))
                numbers.used += 1
            except UnreadableImage as problem:
                numbers.refuse(problem)
    return numbers


def _unit(name: str, units: Iterable[str]) -> tuple[Mapping[str, float], str]:
    """Return by what numbers in each unit are multiplied, and the unit of the result."""
    every = sorted(set(units))
    if len(every) == 1:
        return {every[0]: 1.0}, every[0]
    common = {SAME[unit][0] if unit in SAME else "" for unit in every}
    if len(common) > 1 or "" in common:
        shown = ", ".join(repr("".join(letter for letter in unit if letter.isprintable())) for unit in every)
        raise DataError(
            f"The numbers named {name!r} are in different units: {shown}.",
            remedy="Convert them to one unit, or process the objects of each unit separately.",
        )
    return {unit: SAME[unit][1] for unit in every}, common.pop()


def _write(output: Path, found: Mapping[tuple[str, str], float], above: float | None) -> None:
    handle, partial = tempfile.mkstemp(dir=output.parent, prefix=".labels-")  # a new file that only its owner can read
    with os.fdopen(handle, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("StudyInstanceUID", "PatientID", "label"))
        for (study, patient), value in sorted(found.items()):
            writer.writerow(
                (write_cell(study), write_cell(patient), f"{value:g}" if above is None else int(value > above))
            )
    Path(partial).replace(output)
