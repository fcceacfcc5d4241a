"""From a sample as its source reads it to the example that a job's transforms and task take."""

from collections.abc import Mapping, Sequence

import numpy as np

from salus.client.data.records import Sample
from salus.client.data.targets import Target
from salus.common.batch import THERE
from salus.common.errors import DataError, UnreadableImage
from salus.common.examples import PADDING, ROW, Array, Example, plane_of
from salus.common.fit import takes_rows_for_images
from salus.common.job import TaskSettings
from salus.common.job_statistics import Column
from salus.common.tasks.base import Task

LABEL = "label"  # from the catalogue, so an operator may correct it; everything else follows from what was read
IMAGE = "image"


def annotations_of(task: Task) -> list[str]:
    """Return the names of a task's fields that may be annotations of the image; it computes the others from these."""
    computed = (LABEL, IMAGE, ROW)
    return [
        name
        for name, field in task.spec.items()
        if name not in computed and not field.noise and not name.endswith(THERE)
    ]


def lacking(targets: Mapping[str, Target], task: Task) -> str:
    """Return why an image's annotations are not enough for a task, from the catalogue alone; empty if they are."""
    kinds: Mapping[str, str] = getattr(task, "annotations", {})
    for field, kind in kinds.items():
        found = targets.get(task.settings.targets.get(field, field))
        if found is None or found.kind != kind:
            return "not-annotated"
        if kind == "boxes":  # a class without a box is none in the image: PASCAL VOC's files name only what they show
            continue
        named = not all(name.isdecimal() for name in found.amounts)
        if named and not set(task.settings.classes) <= set(found.amounts):
            return "no-structure"
    return ""


def example_of(
    sample: Sample,
    task: TaskSettings,
    vendor: str,
    *,
    annotations: Sequence[str] = (),
    measured: bool = False,
    objects: str = "",
) -> Example:
    """Return a sample's fields under the names that tasks use, without its label.

    Args:
        annotations: names of the task's fields that are annotations of the image; those that the sample lacks are left out.
        measured: whether the image is in the modality's own units rather than in grey values from 0 to 1.
        objects: the field, if any, whose numbers are single objects and not the job's structures.

    Raises:
        DataError: an image of other dimensions or channels than the job's, or a table that lacks a column of the job.
        UnreadableImage: a mask with structures that the job names but the data set does not.
    """
    facts = {"vendor": vendor}
    _check(sample, task)
    if sample.columns:
        return Example({ROW: sample.values[_places(sample.columns, task.columns)]}, facts=facts)
    fields: dict[str, Array] = {IMAGE: sample.measured if measured else sample.values}
    spatial = {IMAGE}
    for field in annotations:
        name = task.targets.get(field, field)
        if name not in sample.targets:
            continue
        values = sample.targets[name]
        if sample.kinds.get(name) == "mask" and field == objects:
            fields[field] = values if values.ndim == sample.values.ndim else values[None]
            spatial.add(field)
        elif sample.kinds.get(name) == "mask":
            fields[field] = _as_the_job_counts(values, sample.names.get(name, ()), task.classes, sample.values.ndim)
            spatial.add(field)
        elif sample.kinds.get(name) == "boxes":
            fields[field] = _classes_as_the_job_counts(values, sample.names.get(name, ()), task.classes)
        elif sample.kinds.get(name) == "row":
            fields[field] = values[_places(sample.names.get(name, ()), task.columns)]
        else:
            fields[field] = values
    if measured and sample.padding is not None:
        fields[PADDING] = sample.padding.astype(np.uint8)
        spatial.add(PADDING)
    return Example(fields, frozenset(spatial), sample.affine, facts)


def _check(sample: Sample, task: TaskSettings) -> None:
    """Refuse a sample that is no image of the job's kind, before any transform meets it."""
    if not task.shape or (sample.columns and takes_rows_for_images(task)):
        return
    if sample.columns:
        raise DataError("Expected images, got rows of a table.", remedy="Use a tabular task for this data set.")
    if sample.values.ndim != len(task.shape) + 1 or len(sample.values) != task.channels:
        raise DataError(
            f"Expected images of {task.channels} channel(s) and {len(task.shape)} dimensions, "
            f"got {len(sample.values)} and {sample.values.ndim - 1}.",
            remedy="Use a job that fits this data set, or register another data set under its name.",
        )
    if task.plane and sample.values.ndim == 3 and sample.affine is not None:
        plane = plane_of(sample.affine[:3, 0])
        if plane != task.plane:
            raise UnreadableImage("wrong-plane", f"it is {plane}, the job is for {task.plane} images")


def _as_the_job_counts(mask: Array, names: Sequence[str], wanted: Sequence[str], dimensions: int) -> Array:
    """Return a mask ``[channels, *spatial]`` with the job's structures in the job's order; all others become background.

    Args:
        names: of the mask's numbers 1, 2 ...; empty where a number is its own name.
        dimensions: of an image, its channels included.
    """
    missing = [name for name in wanted if names and name not in names]
    if missing:
        raise UnreadableImage("no-structure", f"its mask does not tell {missing[0]!r}")
    numbers = [names.index(name) + 1 if names else place for place, name in enumerate(wanted, start=1)]
    if mask.ndim == dimensions:
        if max(numbers) > len(mask):
            raise UnreadableImage("no-structure", "its mask has fewer structures than the job")
        return mask[[number - 1 for number in numbers]]
    table = np.zeros(max(int(mask.max(initial=0)), *numbers) + 1, mask.dtype)
    table[numbers] = np.arange(1, len(numbers) + 1)
    return np.asarray(table[mask])[None]


def _classes_as_the_job_counts(boxes: Array, names: Sequence[str], wanted: Sequence[str]) -> Array:
    """Return boxes with the job's class numbers; those of other classes are left out.

    Args:
        names: of the data set's numbers 1, 2 ...; empty where a number is its own name.
    """
    numbers = [names.index(name) + 1 if name in names else 0 for name in wanted] if names else range(1, len(wanted) + 1)
    table = {number: place for place, number in enumerate(numbers, start=1) if number}
    kept = np.array([int(number) in table for number in boxes[:, -1]], dtype=np.bool_)
    found = boxes[kept].copy()
    found[:, -1] = [table[int(number)] for number in found[:, -1]]
    return found


def _places(have: Sequence[str], wanted: Sequence[Column]) -> list[int]:
    """Return the positions of the job's columns in the table; they are matched by name, never by order."""
    missing = [column.name for column in wanted if column.name not in have]
    if missing:
        raise DataError(f"The table has no column {missing[0]!r}.", remedy="Register a table with the job's columns.")
    return [list(have).index(column.name) for column in wanted]
