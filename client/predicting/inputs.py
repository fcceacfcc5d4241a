"""What a prediction is made for: the images of a folder or of a registered data set, and those that are refused, by name."""

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from salus.client.data.catalogue import Catalogue
from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.instances import Instance
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.sandbox import LAYERS
from salus.client.data.sources import guess_kind, open_source
from salus.client.data.sources.base import Source, files_of
from salus.client.data.sources.label_match import NOBODY
from salus.client.data.sources.settings import SourceOptions, knows
from salus.client.outgoing.planes import in_order
from salus.common.errors import DataError, UnreadableImage
from salus.common.job import TaskSettings

DICOM = ("dicom", "imported")
ANNOTATION = "annotation"
NO_IMAGES = ("no-pixels", "not-dicom", ANNOTATION)  # reports, plans and other files beside the images
Tell = Callable[[int, int], None]
REMEDIES = {
    "wrong-modality": "Give images of the modality that the job names, or use another model.",
    "wrong-plane": "Give a series in the plane that the job names, or use another model.",
    "oblique": "Reformat the series along the patient's axes.",
    "missing-slice": "Send the whole series again.",
    "repeated-slice": "Send the series again, each slice once.",
    "uneven-spacing": "Give a reconstruction with even spacing.",
    "uneven-slices": "Send the whole series again, each slice once.",
    "mixed-series": "Give each series on its own, with its original identifiers.",
    "mixed-patients": "Give each patient's images series and study identifiers of their own.",
    "single-slice": "Give the whole series.",
    "colour-volume": "Give a grey-value series.",
    "no-position": "Give images with their position in the patient (ImagePositionPatient).",
    "missing-value": "Fill in the value, or use a model that takes missing values, such as trees.",
    "does-not-fit-job": "Give data of the kind with which the model was trained.",
}


@dataclass(frozen=True)
class Refusal:
    """Something that no prediction was made for.

    Args:
        item: how the source calls it.
        names: of its files, where they are known.
    """

    item: str
    reason: str
    detail: str
    names: tuple[str, ...] = ()

    @property
    def files(self) -> int:
        """How many files it has."""
        return max(1, len(self.names))

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return REMEDIES.get(self.reason, "Replace the file.")


@dataclass(frozen=True)
class Input:
    """One image, volume or row.

    Args:
        key: of its source.
        item: the name of its file, or of the first file of its series.
        info: facts, such as its modality; no identifier.
        patient: whose image it is, for models that take a patient's images together; never written.
        sha256: of the stored bytes, hex.
    """

    key: str
    item: str
    info: Mapping[str, Any] = field(default_factory=dict)
    patient: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Inputs:
    """All that a run predicts on.

    Args:
        identity: of the place and the options of the data, for the continuation of a run.
        layers: of the sandbox in which headers are read.
    """

    source: Source
    kind: str
    found: tuple[Input, ...]
    refused: tuple[Refusal, ...]
    identity: str
    layers: tuple[str, ...] = LAYERS


def from_folder(
    root: Path,
    kind: str,
    options: SourceOptions,
    decoding: Decoding,
    tell: Callable[[int], None] = lambda count: None,
    *,
    volumes: bool = False,
) -> Inputs:
    """Find every image of a folder; it needs no labels.

    Args:
        kind: of the data; empty to guess.
        tell: called with the number of files and samples seen.
        volumes: whether the model's inputs are volumes, for a kind that can also be read as slices.

    Raises:
        DataError: no such folder, or a kind that cannot be guessed.
    """
    if not root.exists():
        raise DataError(f"Expected data at {root.name!r}, found nothing.", remedy="Check the path.")
    chosen = kind or guess_kind(root)
    options = options.changed(unlabelled=True)
    if volumes and knows(chosen, "volumes"):
        options = options.changed(volumes=True)
    source = open_source(chosen, root, options, decoding)
    found: list[Input] = []
    bad: list[Quarantined] = []
    for number, item in enumerate(source.scan(), start=1):
        tell(number)
        if isinstance(item, ImageRecord):
            name = files_of(item.key)[0]
            # Of files that name no patient, those in one folder are of one.
            patient = f"folder {name.rpartition('/')[0]}" if item.patient == NOBODY else item.patient
            found.append(Input(item.key, name, item.info, patient, item.sha256))
        elif item.reason not in NO_IMAGES:
            bad.append(item)
    identity = json.dumps([chosen, str(root.resolve()), options.given])
    return Inputs(source, chosen, tuple(found), tuple(_refusals(bad)), identity, decoding.layers)


def from_dataset(catalogue: Catalogue, name: str) -> Inputs:
    """Return the images of a registered data set; raises DataError for an unknown one."""
    images = catalogue.images(name)
    kind = catalogue.summary(name).kind
    found = tuple(
        Input(image.key, files_of(image.key)[0], fact.info, image.patient, image.sha256)
        for image, fact in zip(images, catalogue.facts(name), strict=True)
    )
    layers = LAYERS if catalogue.decoding is None else catalogue.decoding.layers
    identity = json.dumps([name, catalogue.reading(name)])
    return Inputs(catalogue.source(name), kind, found, (), identity, layers)


def _refusals(bad: Iterable[Quarantined]) -> Iterator[Refusal]:
    """Yield one refusal for all files that cannot be used for the same reason in the same folder, such as a series."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for one in bad:
        folder = one.key.rpartition("/")[0] if one.reason in REMEDIES else one.key
        groups.setdefault((folder, one.reason, one.detail), []).append(one.key)
    for (_, reason, detail), keys in groups.items():
        yield Refusal(keys[0], reason, detail, tuple(keys))


def check_facts(one: Input, kind: str, task: TaskSettings) -> None:
    """Refuse an image that is not what the job is for, before it is read; raises UnreadableImage.

    Only DICOM files say what they are.
    """
    modality = str(one.info.get("modality", "")) if kind in DICOM else ""
    if task.modality and modality and modality != task.modality:
        raise UnreadableImage("wrong-modality", f"it is {modality}, the job is for {task.modality}")


def instances_of(inputs: Inputs, one: Input, child: Isolated, task: TaskSettings) -> list[Instance]:
    """Return the headers of an item's images; the slices of a volume in the order of their positions.

    Raises:
        UnreadableImage: another plane than the job's; a missing, repeated or
            unevenly spaced slice; mixed series; a header that cannot be used.
    """
    instances = []
    for name in files_of(one.key):
        try:
            instances.append(child.header(inputs.source.stored(name)))
        except UnreadableImage as problem:
            if problem.reason != ANNOTATION:
                raise
    planes = {instance.plane for instance in instances if instance.placed}
    if task.plane and planes - {task.plane}:
        raise UnreadableImage("wrong-plane", f"it is {min(planes - {task.plane})}, the job is for {task.plane} images")
    return in_order(instances) if len(instances) > 1 else instances


def explained(inputs: Inputs, child: Isolated) -> list[Refusal]:
    """Return what was refused when the data were read; of a series, which slice is missing, repeated or out of place."""
    found = []
    for refusal in inputs.refused:
        if refusal.reason == "uneven-slices":
            series: dict[str, list[Instance]] = {}
            with contextlib.suppress(UnreadableImage):
                for name in refusal.names:
                    instance = child.header(inputs.source.stored(name))
                    series.setdefault(instance.series_uid, []).append(instance)
            try:
                for instances in series.values():
                    in_order(instances)
            except UnreadableImage as problem:
                found.append(replace(refusal, reason=problem.reason, detail=problem.detail))
                continue
        found.append(refusal)
    return found


def check_oblique(affine: "np.ndarray[Any, np.dtype[np.float64]]", most_degrees: float) -> None:
    """Refuse a grid that is turned further than this from the patient's axes; raises UnreadableImage.

    A volume's axes are taken for the nearest axes of the patient, so a model sees a turned volume as a turned patient.
    """
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    turned = math.degrees(math.acos(min(1.0, float(np.abs(columns).max(axis=0).min()))))
    if turned > most_degrees:
        raise UnreadableImage(
            "oblique", f"its axes are {turned:.0f} degrees off the patient's, at most {most_degrees:g} are"
        )
