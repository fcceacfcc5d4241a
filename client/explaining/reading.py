"""The images or rows of a folder or data set, with what is known about them: a label, a mask, boxes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from salus.client.data.catalogue import Catalogue
from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.records import ImageRecord, Sample
from salus.client.data.sources import open_source
from salus.client.data.sources.base import LABELS
from salus.client.data.sources.settings import SourceOptions
from salus.client.explaining.subject import Bools
from salus.client.predicting.inputs import (
    DICOM,
    Input,
    Inputs,
    check_facts,
    check_oblique,
    from_dataset,
    from_folder,
    instances_of,
)
from salus.common.declaration import target_of
from salus.common.errors import DataError
from salus.common.job import TaskSettings
from salus.common.tasks import make_task
from salus.common.tasks.multilabel import MultiLabel
from salus.common.vocabulary import OTHER

BOXES = "Annotations"  # as PASCAL VOC calls it
OF_CLASSES = ("classification", "explained-classification", "svm", "tabular")
MOST_OBLIQUE = 30.0  # degrees, as in a prediction


@dataclass(frozen=True)
class Known:
    """Inputs and their labels by key, as far as there are any.

    Args:
        problem: why a label file that is there was not used; empty if it was, or if there is none.
    """

    inputs: Inputs
    labels: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


def known_folder(
    root: Path,
    kind: str,
    options: SourceOptions,
    tell: Callable[[int], None] = lambda count: None,
    *,
    volumes: bool = False,
) -> Known:
    """Find every image of a folder, and the labels that a label file beside them gives; errors as in `from_folder`."""
    labels: dict[str, str] = {}
    options = _with_boxes(root, kind, options)
    inputs = from_folder(root, kind, options, Decoding(), tell, volumes=volumes)
    # A folder without labels, or whose label file does not fit, is explained without: nothing is trained on it.
    try:
        chosen = options.changed(volumes=True) if volumes and _asks_for_volumes(inputs) else options
        for item in open_source(inputs.kind, root, chosen, Decoding()).scan():
            if isinstance(item, ImageRecord) and item.label:
                labels[item.key] = item.label
    except DataError as problem:
        there = "labels" in options.given or (root / LABELS).exists()
        return Known(inputs, {}, problem.problem if there else "")
    return Known(inputs, labels)


def _with_boxes(root: Path, kind: str, options: SourceOptions) -> SourceOptions:
    """Return the options with the usual folder of boxes, which is not looked for beside a label file."""
    usual = root / BOXES
    if kind != "images" or "annotations" in options.given or not usual.is_dir() or usual.is_symlink():
        return options
    found = options.changed(annotations=BOXES)
    try:
        open_source(kind, root, found.changed(unlabelled=True), Decoding())
    except DataError:
        return options
    return found


def _asks_for_volumes(inputs: Inputs) -> bool:
    return inputs.identity.find('"volumes": true') >= 0


def known_dataset(catalogue: Catalogue, name: str) -> Known:
    """Return the images of a registered data set with their labels; raises DataError for an unknown one."""
    return Known(from_dataset(catalogue, name), {image.key: image.label for image in catalogue.images(name)})


class Reading:
    """Reads single inputs as a prediction does, with the same refusals."""

    def __init__(self, inputs: Inputs, task: TaskSettings, child: Isolated | None) -> None:
        self._inputs, self._task, self._child = inputs, task, child

    def __call__(self, one: Input) -> tuple[Sample, str]:
        """Return a sample and the vendor of its device; raises UnreadableImage or DataError for what the model is not for."""
        check_facts(one, self._inputs.kind, self._task)
        if self._child is not None:
            instances_of(self._inputs, one, self._child, self._task)
        sample: Sample = self._inputs.source.load(one.key)
        if sample.affine is not None and sample.values.ndim == 4:
            check_oblique(sample.affine, MOST_OBLIQUE)
        return sample, str(one.info.get("vendor", OTHER))


@contextmanager
def reading(inputs: Inputs, task: TaskSettings) -> Iterator[Reading]:
    """Open what reads the inputs; DICOM headers are read in a sandboxed child process."""
    with ExitStack() as stack:
        child = stack.enter_context(Isolated(layers=inputs.layers)) if inputs.kind in DICOM else None
        yield Reading(inputs, task, child)


def truth_of(label: str, task: TaskSettings) -> str:
    """Return a label in the words of the model's answers; empty for one that is none of the job's classes or findings."""
    if label and task.kind == "multilabel":  # its findings may be in any order
        meaning = make_task(task)
        assert isinstance(meaning, MultiLabel)  # Safe because of its kind.
        target = meaning.target(label)
        if target is None:
            return ""
        present = [name for name, found in zip(task.classes, target, strict=True) if found]
        return "|".join(present) or next(iter(meaning.own.no_finding), "none")
    number = target_of(label, task.classes) if label else None
    return ("" if task.kind in OF_CLASSES else label) if number is None else task.classes[number]


def region_of(sample: Sample, task: TaskSettings, structure: str) -> Bools | None:
    """Return what is annotated, ``[*spatial]``: of this structure where the annotation tells structures apart, else of any.

    None without an annotation.
    """
    grid = sample.values.shape[1:]
    for name, values in sample.targets.items():
        kind, names = sample.kinds.get(name), sample.names.get(name, ())
        number = _number(structure, names, task)
        if kind == "mask" and values.ndim == len(grid) + 1:
            return np.asarray(values.any(axis=0) if number is None or number > len(values) else values[number - 1] > 0)
        if kind == "mask":
            return np.asarray(values > 0 if number is None else values == number)
        if kind == "boxes":
            return _filled(values if number is None else values[values[:, -1] == number], grid)
    return None


def _number(structure: str, names: tuple[str, ...], task: TaskSettings) -> int | None:
    """Return the number of a structure in an annotation; None if the annotation does not know it."""
    if names:
        return names.index(structure) + 1 if structure in names else None
    speaks = task.kind in ("segmentation", "detection")
    return list(task.classes).index(structure) + 1 if speaks and structure in task.classes else None


def _filled(boxes: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", grid: tuple[int, ...]) -> Bools:
    region = np.zeros(grid, np.bool_)
    dims = len(grid)
    for box in boxes:
        region[
            tuple(
                slice(max(0, int(low)), max(0, int(np.ceil(high))))
                for low, high in zip(box[:dims], box[dims : 2 * dims], strict=True)
            )
        ] = True
    return region
