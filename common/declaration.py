"""A site's public statement about one of its data sets: the kind of data, never anything about one patient.

The site's operator confirms a declaration once. Jobs are compared with it (`fit`), never with the data, so a refusal
of an incompatible job says nothing about a patient.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from salus.common.job import MAX_COLUMNS, MAX_INPUT_NUMBERS
from salus.common.strict import Strict

MAX_CLASSES = 1000
SPACINGS = ("unknown", "up to 0.25 mm", "0.25 to 0.5 mm", "0.5 to 1 mm", "1 to 2 mm", "above 2 mm")
SPACING_EDGES_MM = (0.25, 0.5, 1.0, 2.0)
LONGEST_NUMBER = 18
ROUND_NUMBERS = (1, 2, 5)
# No control or invisible characters: declarations are printed on other people's terminals.
Word = Annotated[str, Field(pattern=r"^[^\p{C}\p{Z}]+( [^\p{C}\p{Z}]+)*$", min_length=1, max_length=64)]
Modality = Annotated[str, Field(pattern=r"^[A-Z]{1,16}$")]


TargetKind = Literal["mask", "boxes", "contours", "numbers", "row", "text", "series"]
AnnotationKind = Literal["class", "measurement", "mask", "boxes", "contours", "numbers", "row", "text", "series"]
MAX_TARGETS = 16
MAX_STRUCTURES = 1000


class DeclaredTarget(Strict):
    """One annotation beside the label.

    Args:
        name: by which a job refers to it.
        names: every structure of a mask, class of boxes or contours, or column that a job may use, spelt as in the data.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    kind: TargetKind
    names: Annotated[tuple[Word, ...], Field(max_length=MAX_STRUCTURES)] = ()


class DeclaredColumn(Strict):
    """One column of a table; `unit` is empty if the operator has not stated one."""

    name: Word
    unit: Annotated[str, Field(pattern=r"^[^\p{C}]*$", max_length=32)] = ""


class Declaration(Strict):
    """What is public about a data set.

    Args:
        version: version of this format; a newer version is refused.
        kind: ``images`` (pictures and volumes) or ``table`` (rows of a table).
        annotations: the kinds of labels and other annotations that the items have.
        classes: every label that a job may use, spelt as in the data; may include labels that no patient has yet.
        dimensions: numbers of spatial dimensions of the images.
        channels: numbers of channels of the images.
        modalities: DICOM modality codes of the images, from a fixed list; empty if unknown.
        spacing: class of the usual pixel spacing within a plane.
        columns: input columns of a table, with units.
        min_patients: lower bound on the number of patients, stated by the operator; the exact count stays at the site.
        targets: annotations beside the label, with their structures.
        validation: ``own`` if the data say which patients are for validation; ``drawn`` if the site draws them.
        numbered: whether the labels in the data are numbers; 0 then stands for the first of `classes`, 1 for the second ...
        patient_ids: whether patients are identified; if not, every distinct image or row counts as one patient.
    """

    format_key: ClassVar[str] = "version"
    newest_format: ClassVar[int] = 1

    version: Literal[1] = 1
    kind: Literal["images", "table"]
    annotations: Annotated[tuple[AnnotationKind, ...], Field(max_length=9)] = ("class",)
    classes: Annotated[tuple[Word, ...], Field(max_length=MAX_CLASSES)] = ()
    dimensions: Annotated[tuple[Literal[2, 3], ...], Field(max_length=2)] = ()
    channels: Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_INPUT_NUMBERS)], ...], Field(max_length=16)] = ()
    modalities: Annotated[tuple[Modality, ...], Field(max_length=32)] = ()
    spacing: Literal["unknown", "up to 0.25 mm", "0.25 to 0.5 mm", "0.5 to 1 mm", "1 to 2 mm", "above 2 mm"] = "unknown"
    columns: Annotated[tuple[DeclaredColumn, ...], Field(max_length=MAX_COLUMNS)] = ()
    min_patients: Annotated[int, Field(ge=1, le=10**9)] = 1
    numbered: bool = False
    patient_ids: bool = True
    validation: Literal["own", "drawn"] = "drawn"
    targets: Annotated[tuple[DeclaredTarget, ...], Field(max_length=MAX_TARGETS)] = ()

    def target(self, name: str) -> DeclaredTarget | None:
        """Return an annotation by its name, or None."""
        return next((target for target in self.targets if target.name == name), None)

    def _said(self, kind: AnnotationKind) -> str:
        """Return a kind of annotation for people; without a label file, an image's number is the volume of its mask."""
        if kind != "measurement":
            return kind
        masked = any(target.kind == "mask" for target in self.targets)
        return f"a number for each image{' (the volume of its mask, or from a label file)' if masked else ''}"

    def rows(self) -> list[tuple[str, str]]:
        """Return the declaration as rows of a table for people."""
        columns = [f"{column.name} [{column.unit}]" if column.unit else column.name for column in self.columns]
        told = "by an identifier" if self.patient_ids else "by image content, because no identifier is known"
        lines = [
            ("kind", self.kind),
            ("annotations", ", ".join(self._said(kind) for kind in self.annotations)),
            ("classes", ", ".join(self.classes)),
            (
                "labels in the data",
                "numbers: 0 stands for the first class, 1 for the second, ..." if self.numbered else "",
            ),
            *((f"{target.kind} {target.name!r}", ", ".join(target.names) or "-") for target in self.targets),
            ("dimensions", ", ".join(map(str, self.dimensions))),
            ("channels", ", ".join(map(str, self.channels))),
            ("modalities", ", ".join(self.modalities)),
            ("pixel spacing", self.spacing if self.kind == "images" else ""),
            ("columns", ", ".join(columns)),
            ("patients", f"at least {self.min_patients}"),
            ("patients are identified", told),
            ("validation patients", "as the data say" if self.validation == "own" else "drawn by this site"),
        ]
        return [(name, text) for name, text in lines if text]


def spacing_class(spacing_mm: Sequence[float]) -> str:
    """Return the class in `SPACINGS` of an image, from its larger in-plane spacing (the last two axes)."""
    if len(spacing_mm) < 2 or not max(spacing_mm[-2:]) > 0:
        return SPACINGS[0]
    return SPACINGS[1 + sum(max(spacing_mm[-2:]) > edge for edge in SPACING_EDGES_MM)]


def rounded_down(count: int) -> int:
    """Return the largest of 1, 2, 5, 10, 20, 50 ... that is at most `count`, and at least 1.

    >>> [rounded_down(count) for count in (0, 1, 4, 49, 588)]
    [1, 1, 2, 20, 500]
    """
    best, power = 1, 1
    while power <= count:
        best = max([best, *(power * number for number in ROUND_NUMBERS if power * number <= count)])
        power *= 10
    return best


def findings_of(label: str) -> list[str]:
    """Return the findings that a label names, separated by ``|`` or ``;``; a label without these is one finding.

    >>> findings_of("Edema|Effusion"), findings_of("normal"), findings_of("")
    (['Edema', 'Effusion'], ['normal'], [''])
    """
    return [part.strip() for part in label.replace("|", ";").split(";")]


def target_of(label: str, classes: Sequence[str]) -> int | None:
    """Return the class number of a label, which may be a class name or number; None if it is neither."""
    if label in classes:
        return list(classes).index(label)
    numbered = (
        label.isascii()
        and label.isdecimal()
        and len(label) <= LONGEST_NUMBER  # Python refuses to read thousands of digits
        and int(label) < len(classes)
        and not any(name.isdecimal() for name in classes)
    )
    return int(label) if numbered else None
