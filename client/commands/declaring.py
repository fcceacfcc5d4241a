"""How `salus dataset add`, `import` and `declare` show a declaration before it is published, and have it confirmed."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import typer

from salus.client.data.catalogue import Catalogue
from salus.client.data.declaration import FEW_PATIENTS, Proposal, differences, outside
from salus.common.console import out, table
from salus.common.declaration import Declaration
from salus.common.errors import ConfigError, DataError
from salus.common.strict import validate

LISTED = 10


@dataclass(frozen=True)
class Edits:
    """The operator's changes to a declaration; empty fields change nothing.

    Args:
        units: by column.
    """

    classes: tuple[str, ...] = ()
    min_patients: int = 0
    units: Mapping[str, str] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()

    def of(self, declaration: Declaration, patients: int) -> Declaration:
        """Return the declaration with these changes.

        Raises:
            DataError: more patients than there are, a column the table does not have, or a value that cannot be declared.
        """
        if self.min_patients > patients:
            raise DataError(
                f"Expected --min-patients of at most {patients}, the number of registered patients, got {self.min_patients}.",
                remedy="Give a smaller number.",
            )
        unknown = sorted(set(self.units) - {column.name for column in declaration.columns})
        if unknown:
            raise DataError(f"The table has no column {unknown[0]!r}.", remedy="Correct --units.")
        changed = declaration.model_dump(mode="json")
        if self.classes:
            changed |= {"classes": list(self.classes), "annotations": ["class"]}
        if self.min_patients:
            changed["min_patients"] = self.min_patients
        if self.modalities:
            changed["modalities"] = list(self.modalities)
        for column in changed["columns"]:
            column["unit"] = self.units.get(column["name"], column["unit"])
        return validate(Declaration, changed, error=DataError, what="declaration")


def _stand_for_names(declaration: Declaration, found: Proposal) -> bool:
    """Return whether numbers in the data stand for the declared classes, in their order."""
    numbers = bool(found.labels) and all(label.isdecimal() for label in found.labels)
    return numbers and bool(declaration.classes) and not any(name.isdecimal() for name in declaration.classes)


def words(text: str) -> tuple[str, ...]:
    """Return the items of a comma-separated list."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def units(text: str) -> dict[str, str]:
    """Return the units in ``age=years,chol=mg/dl``; raises ConfigError for anything else."""
    pairs = [part.partition("=") for part in words(text)]
    if any(not name.strip() or not equals for name, equals, _ in pairs):
        raise ConfigError("Expected units like age=years,chol=mg/dl.", remedy="Correct --units.")
    return {name.strip(): unit.strip() for name, _, unit in pairs}


def declare(folder: Path, catalogue: Catalogue, name: str, *, yes: bool, edits: Edits | None = None) -> None:
    """Show what would be public about a data set, and publish it if the operator confirms.

    Args:
        edits: the operator's changes; without any, an existing declaration is shown and kept.
    """
    known = _known(catalogue, name)
    found = catalogue.propose(name)
    declaration = (edits or Edits()).of(known or found.declaration, found.patients)
    declaration = declaration.model_copy(update={"numbered": _stand_for_names(declaration, found)})
    show_declaration(name, declaration, found)
    if known == declaration:
        out.print(f"{name} already has this declaration.", markup=False)
        return
    again = f"salus dataset declare {folder} {name}"
    if not yes and not (sys.stdin.isatty() and typer.confirm("Declare this?")):
        out.print(
            f"Not declared: every job on {name} is refused until you confirm it with: {again} --yes",
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return
    catalogue.declarations.put(name, declaration)
    out.print(f"Declared. Change it with: {again}", markup=False, highlight=False, soft_wrap=True)


def show_declaration(name: str, declaration: Declaration, found: Proposal) -> None:
    """Print a declaration, and what the operator should know about it."""
    table(f"What the coordinator and jobs may know about {name}", ["", ""], declaration.rows())
    for line in remarks(declaration, found):
        out.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)


def remarks(declaration: Declaration, found: Proposal) -> list[str]:
    """Return what the operator should look at before confirming a declaration."""
    lines = [
        f"There are {found.patients} patients; others learn only that there are at least {declaration.min_patients}. "
        "State another lower bound with salus dataset declare --min-patients."
    ]
    if "class" in declaration.annotations and found.labels and all(label.isdecimal() for label in found.labels):
        lines.append(
            "The labels are numbers: 0 stands for the first class that a job lists, 1 for the second, and so on. Agree on the "
            "order with the coordinator. Declare the names, in this order, with salus dataset declare --classes: then a job that "
            "spells one differently is refused."
        )
    numbered = [t.name for t in declaration.targets if t.names and all(name.isdecimal() for name in t.names)]
    if numbered:
        lines.append(
            f"The structures of {', '.join(map(repr, numbered))} are numbers: 1 stands for the first class that a job lists, "
            "2 for the second. Agree on the order with the coordinator, or register the data again with --structures."
        )
    strange = outside(found.labels, declaration) if "class" in declaration.annotations else {}
    if strange:
        most = sorted(strange, key=lambda label: -strange[label])
        listed = ", ".join(f"{label!r} ({strange[label]})" for label in most[:LISTED])
        more = f" and {len(most) - LISTED} other labels" if len(most) > LISTED else ""
        lines.append(
            f"{sum(strange.values())} images have labels that are not declared: {listed}{more}. No job uses them. Correct "
            f"misspellings in the label file, or declare them with --classes; labels of fewer than {FEW_PATIENTS} patients "
            "are never declared automatically."
        )
    if not declaration.patient_ids:
        lines.append(
            "No patient identifiers: every distinct image or row counts as one patient. If one person has several, that person's "
            "privacy cost is underestimated; name the patient column with --patient-column."
        )
    return [*lines, *(f"Check the declaration: {text}." for text in differences(declaration, found))]


def _known(catalogue: Catalogue, name: str) -> Declaration | None:
    every = catalogue.declarations.all()
    if name not in every:
        raise DataError(f"No data set {name!r} is registered here.", remedy="See: salus dataset list SITE.")
    return every[name]
