"""Process every image of a folder or a data set and write what comes of it; one that is refused costs only itself."""

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from salus import __version__
from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.derived import MAX_TEXT, Derivation
from salus.client.data.dicom.instances import Instance
from salus.client.data.records import Sample
from salus.client.data.sources.base import files_of
from salus.client.outgoing.nifti import write_image
from salus.client.outgoing.planes import in_order, planes_of
from salus.client.outgoing.producer import Producer
from salus.client.outgoing.tables import write_table
from salus.client.predicting.inputs import DICOM, Input, Inputs, Refusal
from salus.client.processing.pictures import Step, traced
from salus.client.processing.steps import settings_for
from salus.common.batch import Field
from salus.common.canonical import canonical_json
from salus.common.errors import ConfigError, DataError, JobError, UnreadableImage, storage_error
from salus.common.examples import PADDING, Affine, Array, Example
from salus.common.files import write_whole
from salus.common.strict import Strict
from salus.common.transforms.chain import Chain
from salus.common.transforms.compression import LOSSY, RATIO
from salus.common.vocabulary import OTHER

SERIES_NUMBER = 950  # beyond those that scanners use, and beside 900 of segmentations
MOST_TRACED = 8  # images that are shown after each step
Tell = Callable[[int, int], None]


@dataclass
class Processed:
    """The result for one image.

    Args:
        item: how the source calls it.
        steps: the image as stored and after each step, of the first images; then only the first and the last.
        files: relative to the folder of the results.
        left_out: why DICOM files were not written; empty if they were, or were not asked for.
    """

    item: str
    steps: list[Step]
    files: list[str] = field(default_factory=list)
    left_out: str = ""


@dataclass(frozen=True)
class Finished:
    """What came of a run."""

    images: tuple[Processed, ...]
    refused: tuple[Refusal, ...]


def process(
    entries: Sequence[Strict], inputs: Inputs, out: Path, *, dicom: bool, tell: Tell = lambda done, of: None
) -> Finished:
    """Apply steps to every image and write it as NIfTI, and as derived DICOM objects where it was DICOM.

    Args:
        entries: settings of the steps.
        out: a new or empty folder.
        dicom: whether to write DICOM objects.

    Raises:
        ConfigError: a folder that is not empty, or a step whose package is not installed.
        DataError: no image could be processed.
    """
    _empty(out)
    for name in ("nifti", *(["dicom"] if dicom else [])):
        (out / name).mkdir()
    done: list[Processed] = []
    with ExitStack() as stack:
        wanted = dicom and inputs.kind in DICOM
        child = stack.enter_context(Isolated(layers=inputs.layers)) if wanted else None
        refused = list(inputs.refused)
        one_run = _OneRun(entries, inputs, out, child, dicom)
        for number, one in enumerate(inputs.found):
            tell(number, len(inputs.found))
            try:
                done.append(one_run(one, number))
            except UnreadableImage as problem:
                refused.append(Refusal(one.item, problem.reason, problem.detail))
            except (DataError, JobError) as problem:
                refused.append(Refusal(one.item, "does-not-fit-steps", problem.problem))
        tell(len(inputs.found), len(inputs.found))
    if not done:
        first = f" {refused[0].detail[:1].upper()}{refused[0].detail[1:].rstrip('.')}." if refused else ""
        raise DataError(
            f"No image could be processed.{first}",
            remedy=refused[0].remedy if refused else "Check the path and --kind.",
        )
    return Finished(tuple(done), tuple(refused))


def _empty(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir())):
        raise ConfigError(f"The folder {out.name!r} is not empty.", remedy="Choose a new folder with --out.")
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise storage_error(problem) or problem from None


class _OneRun:
    """Everything that stays the same from image to image."""

    def __init__(
        self, entries: Sequence[Strict], inputs: Inputs, out: Path, child: Isolated | None, dicom: bool
    ) -> None:
        self._entries, self._inputs, self._out, self._child, self._dicom = entries, inputs, out, child, dicom
        plain = canonical_json([entry.model_dump(mode="json") for entry in entries])
        self._producer = Producer("processing", hashlib.sha256(plain).hexdigest(), __version__)
        self._names: set[str] = set()

    def __call__(self, one: Input, number: int) -> Processed:
        sample = self._inputs.source.load(one.key)
        if sample.columns:
            raise UnreadableImage("not-used", "a row of a table is no image")
        example = _example(sample, str(one.info.get("vendor", OTHER)))
        chain = Chain.of(self._entries, settings_for(example["image"]))
        chain.stages(_spec(example))  # refuses a step that does not fit, by name, before anything is computed
        steps = traced(chain, example)
        found = steps[-1].example
        result = Processed(one.item, steps if number < MOST_TRACED else [steps[0], steps[-1]])
        name = self._name(one.item)
        path = self._out / "nifti" / f"{name}.nii.gz"
        write_image(path, _volume(found["image"]), _affine(found, sample), sample.axes if len(sample.axes) == 3 else "")
        result.files.append(f"nifti/{path.name}")
        if self._dicom:
            try:
                result.files += self._derive(one, name, sample, found)
            except UnreadableImage as problem:
                result.left_out = problem.reason
        for step in result.steps:
            step.drawn()
        return result

    def _name(self, item: str) -> str:
        plain = re.sub(r"\.(nii|nii\.gz|dcm|png|jpe?g|bmp|tiff?)$", "", item, flags=re.IGNORECASE)
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")[-100:] or "image"
        name, number = stem, 1
        while name.lower() in self._names:
            number += 1
            name = f"{stem}-{number}"
        self._names.add(name.lower())
        return name

    def _derive(self, one: Input, name: str, sample: Sample, found: Example) -> list[str]:
        """Write a DICOM object for each source image and return their names; raises UnreadableImage if there can be none."""
        if self._child is None:
            raise UnreadableImage("not-dicom", "DICOM objects are derived from DICOM images only")
        same = found.affine is None and sample.affine is None
        same = same or (
            found.affine is not None and sample.affine is not None and np.allclose(found.affine, sample.affine)
        )
        if not same or found["image"].shape != sample.values.shape or len(found["image"]) != 1:
            raise UnreadableImage(
                "other-grid", "the steps changed the grid, and a derived image must keep its source's"
            )
        stored = [self._inputs.source.stored(name) for name in files_of(one.key)]
        headers = [self._child.header(data) for data in stored]
        if len({header.sop_instance_uid for header in headers}) < len(headers):
            raise UnreadableImage(
                "same-instance",
                "two of its files have one SOPInstanceUID, so a derived image could not name its source",
            )
        by_uid = {header.sop_instance_uid: data for header, data in zip(headers, stored, strict=True)}
        instances = in_order(headers) if len(headers) > 1 else headers
        planes = found["image"] if sample.values.ndim == 3 else _planes(found["image"][0], sample, instances)
        files = []
        for place, (instance, plane) in enumerate(zip(instances, planes, strict=True), start=1):
            data = self._child.derive(
                by_uid[instance.sop_instance_uid], plane, self._derivation(instance, plane, found)
            )
            own = name if len(instances) == 1 else self._name(f"{name}-{place:04d}")
            path = self._out / "dicom" / f"{own}.dcm"
            write_whole(path, data)
            files.append(f"dicom/{path.name}")
        return files

    def _derivation(self, instance: Instance, plane: Array, found: Example) -> Derivation:
        words = "; ".join(
            " ".join([str(getattr(entry, "kind", "")), *(f"{k}={v}" for k, v in _given(entry).items())])
            for entry in self._entries
        )
        method = found.facts.get(LOSSY, "")
        return Derivation(
            sop_instance_uid=self._producer.uid("image", instance.sop_instance_uid, plane.tobytes()),
            series_uid=self._producer.uid("series", instance.series_uid),
            series_number=SERIES_NUMBER,
            description=f"Salus {__version__}: {words}"[:MAX_TEXT],
            lossy=method,
            ratio=float(found.facts.get(RATIO, 0)) if method else 0.0,
        )


def _given(entry: Strict) -> dict[str, object]:
    return {k: v for k, v in entry.model_dump(mode="json", exclude_defaults=True).items() if k != "kind"}


def _example(sample: Sample, vendor: str) -> Example:
    fields: dict[str, Array] = {"image": sample.measured.astype(np.float32)}
    spatial = {"image"}
    if sample.padding is not None:
        fields[PADDING] = sample.padding.astype(np.uint8)
        spatial.add(PADDING)
    return Example(fields, frozenset(spatial), sample.affine, {"vendor": vendor})


def _spec(example: Example) -> dict[str, Field]:
    return {
        name: Field(tuple(array.shape), "float32" if array.dtype.kind == "f" else "int64", 0, 256, spatial=True)
        for name, array in example.fields.items()
    }


def _volume(values: Array) -> Array:
    """Return an image as NIfTI has it, ``[z, y, x]`` or ``[channels, z, y, x]``; a picture has one slice."""
    volume = values if values.ndim == 4 else values[:, None]
    return volume[0] if len(volume) == 1 else volume


def _affine(found: Example, sample: Sample) -> Affine:
    if found.affine is not None:
        return found.affine
    spacing = (1.0, *sample.spacing_mm)[-3:] if len(sample.spacing_mm) in (2, 3) else (1.0, 1.0, 1.0)
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = spacing
    affine[3, 3] = 1.0
    return affine


def _planes(volume: Array, sample: Sample, instances: Sequence[Instance]) -> Array:
    if sample.affine is None:
        raise UnreadableImage("no-position", "the volume has no position in the patient")
    return planes_of(volume, sample.affine, instances)


def write_list(out: Path, finished: Finished) -> None:
    """Write ``processed.csv``: for each image its files and how far it is from what it was."""
    columns = ("item", "files", "not written as DICOM", "mean change", "PSNR in dB", "compression ratio")
    rows = []
    for one in finished.images:
        last = one.steps[-1]
        psnr = "" if last.psnr_db is None else "inf" if math.isinf(last.psnr_db) else f"{last.psnr_db:.2f}"
        rows.append(dict(zip(columns, (
            one.item, " ".join(one.files), one.left_out, "" if last.change is None else last.change, psnr, last.ratio,
        ), strict=True)))  # fmt: skip
    write_table(out / "processed.csv", columns, rows)
