"""From a registered data set to the declaration that its operator is asked to confirm, and where declarations are kept.

What only a few patients have is never proposed: a rare label would reveal that somebody has it, and is often a
misspelling. The operator may still declare it by name.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from salus.client.data.records import ImageFacts, Sample
from salus.client.data.schema import DATASETS
from salus.common.declaration import (
    MAX_CLASSES,
    MAX_STRUCTURES,
    Declaration,
    TargetKind,
    findings_of,
    rounded_down,
    spacing_class,
    target_of,
)
from salus.common.errors import DataError
from salus.common.outcomes import CENSORED, outcome_of
from salus.common.strict import validate

FEW_PATIENTS = 5  # a common rule of registries, and the default of `min_patients_per_cell`
MAX_DIFFERENT = 5000  # distinct labels that are counted; with more they are certainly not classes
MAX_NUMBERS = 20  # more distinct numbers than this are measurements


@dataclass(frozen=True)
class Proposal:
    """What a data set looks like, for its operator to confirm.

    Args:
        labels: images by label, those without a label left out; labels that only a few patients have are not in the declaration.
        patients: how many there are.
    """

    declaration: Declaration
    labels: dict[str, int]
    patients: int


@dataclass
class _Seen:
    """Counts of one kind of value, such as labels: images of each, and patients of each up to the required number."""

    least: int
    images: Counter[str | int] = field(default_factory=Counter)
    patients: dict[str | int, set[str]] = field(default_factory=dict)

    def add(self, value: str | int, patient: str) -> None:
        if value not in self.images and len(self.images) >= MAX_DIFFERENT:
            return
        self.images[value] += 1
        mine = self.patients.setdefault(value, set())
        if len(mine) < self.least:
            mine.add(patient)

    def frequent(self) -> list[str | int]:
        """Return the values that enough patients have, sorted."""
        return sorted(self.frequent_in_order())

    def frequent_in_order(self) -> list[str | int]:
        """Return the values that enough patients have, in the order in which they were seen."""
        return [value for value, mine in self.patients.items() if len(mine) >= self.least]

    def usual(self) -> list[str | int]:
        """Return the values that enough patients have, or the most frequent one: file properties say little about any person."""
        return self.frequent() or [value for value, _ in self.images.most_common(1)]


def propose(
    facts: Iterable[ImageFacts],
    peek: Callable[[], Sample],
    patients: int,
    least: int = FEW_PATIENTS,
    *,
    own_validation: bool = False,
) -> Proposal:
    """Return what a data set looks like.

    Args:
        facts: of every image.
        peek: reads one image or row, for facts that the catalogue lacks.
        patients: how many there are.
        least: number of patients that must have a label for it to be proposed as a class.
        own_validation: whether the source says which patients are for validation.

    Raises:
        DataError: nothing can be read.
    """
    seen = {what: _Seen(least) for what in ("label", "dimensions", "channels", "modality")}
    targets: dict[str, tuple[TargetKind, _Seen]] = {}
    spacings: Counter[str] = Counter()
    told_apart = True
    sample: Sample | None = None
    for fact in facts:
        info = fact.info
        if "rows" not in info or "channels" not in info:
            sample = sample or peek()
        shape = () if sample is None else sample.values.shape
        if fact.label or not fact.targets:
            for finding in findings_of(fact.label):
                seen["label"].add(finding, fact.patient)
        _add_targets(targets, fact, least)
        told_apart = told_apart and "patient_by" not in info
        if sample is not None and sample.columns:
            continue
        volume = bool(info.get("slices")) or info.get("frames", 1) > 1 if "rows" in info else len(shape) == 4
        seen["dimensions"].add(3 if volume else 2, fact.patient)
        seen["channels"].add(int(info["channels"]) if "channels" in info else shape[0], fact.patient)
        if "modality" in info:
            seen["modality"].add(str(info["modality"]), fact.patient)
        spacings[spacing_class(info.get("spacing_mm", ()))] += 1
    columns = () if sample is None else sample.columns
    measured = are_numbers(seen["label"].images)
    classes = [] if measured else [str(label) for label in seen["label"].frequent()][:MAX_CLASSES]
    values = {
        "kind": "table" if columns else "images",
        "annotations": [*_kinds_of_labels(seen["label"], measured), *sorted({kind for kind, _ in targets.values()})],
        "classes": [label for label in classes if _sayable(label)],
        "dimensions": seen["dimensions"].usual(),
        "channels": seen["channels"].usual(),
        "modalities": seen["modality"].usual(),
        "spacing": spacings.most_common(1)[0][0] if spacings else "unknown",
        "columns": [{"name": name} for name in columns],
        "min_patients": rounded_down(patients),
        "patient_ids": told_apart,
        "validation": "own" if own_validation else "drawn",
        "targets": _declared(targets),
    }
    declaration = validate(Declaration, values, error=DataError, what="declaration")
    return Proposal(declaration, {str(label): count for label, count in seen["label"].images.items()}, patients)


def _add_targets(targets: dict[str, tuple[TargetKind, _Seen]], fact: ImageFacts, least: int) -> None:
    """Count which structures each patient has; an image that does not show a structure does not count for it."""
    for name, target in fact.targets.items():
        _, structures = targets.setdefault(name, (target.kind, _Seen(least)))
        for structure, amount in target.amounts.items():
            if amount > 0:
                structures.add(structure, fact.patient)


def _declared(targets: Mapping[str, tuple[TargetKind, _Seen]]) -> list[dict[str, object]]:
    """Return the annotations by name, with the structures that enough patients have."""
    return [
        {
            "name": name,
            "kind": kind,
            "names": [str(word) for word in structures.frequent_in_order() if _sayable(str(word))][:MAX_STRUCTURES],
        }
        for name, (kind, structures) in sorted(targets.items())
    ]


def _kinds_of_labels(labels: _Seen, measured: bool) -> list[str]:
    if not labels.images:
        return []
    return ["measurement" if measured else "class"]


def outside(labels: Mapping[str, int], declared: Declaration) -> dict[str, int]:
    """Return the images of labels that are not declared, by label; a number stands for a declared class by its place."""
    return {label: count for label, count in labels.items() if target_of(label, declared.classes) is None}


def differences(declared: Declaration, found: Proposal) -> list[str]:
    """Return where the declaration no longer matches the data, for its operator to check."""
    now, lines = found.declaration, []
    if declared.min_patients > found.patients:
        lines.append(f"at least {declared.min_patients} patients are declared, but there are {found.patients}")
    for target in now.targets:
        if declared.target(target.name) is None:
            lines.append(f"the annotation {target.name!r} ({target.kind}) is not declared")
    for what in ("kind", "annotations", "dimensions", "channels", "modalities"):
        if getattr(declared, what) != getattr(now, what):
            lines.append(f"declared {what}: {_shown(getattr(declared, what))}; found: {_shown(getattr(now, what))}")
    if {column.name for column in declared.columns} != {column.name for column in now.columns}:
        lines.append("the declared columns do not match those of the table")
    return lines


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def are_numbers(labels: Iterable[str | int]) -> bool:
    """Return whether labels are measurements: outcomes such as ``538+``, or more distinct numbers than classes ever have."""
    different = {label for label in labels if label != ""}
    if any(str(label).endswith(CENSORED) for label in different) and all(outcome_of(str(label)) for label in different):
        return True
    if len(different) <= MAX_NUMBERS:
        return False
    try:
        [float(label) for label in different]
    except ValueError:
        return False
    return True


def _sayable(label: str) -> bool:
    """Return whether a label can be a declared class: one line of visible text of at most 64 characters."""
    return len(label) <= 64 and label == " ".join(label.split(" ")) and label.isprintable() and label.strip() == label


class Declarations:
    """The declarations of one site's data sets, in its catalogue."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def all(self) -> dict[str, Declaration | None]:
        """Return each data set's declaration by name; None where none is confirmed yet, or it cannot be read."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(DATASETS.c.name, DATASETS.c.declaration)).all()
        return {row.name: _parsed(row.declaration) for row in rows}

    def put(self, name: str, declaration: Declaration) -> None:
        """Keep a confirmed declaration; raises DataError for an unknown data set."""
        with self._engine.begin() as connection:
            mine = DATASETS.c.name == name
            text = declaration.model_dump_json()
            if connection.execute(DATASETS.update().where(mine).values(declaration=text)).rowcount == 0:
                raise DataError(f"No data set {name!r} is registered here.", remedy="See: salus dataset list.")


def _parsed(text: str) -> Declaration | None:
    import json

    if not text:
        return None
    try:
        return validate(Declaration, json.loads(text), error=DataError, what="declaration")
    except (DataError, ValueError):
        return None  # newer version or damaged: jobs are refused until it is declared again
