"""The files of one answer, each in the form that suits its source."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from salus.client.data.dicom.instances import Instance
from salus.client.data.records import Sample
from salus.client.outgoing.coding import Coded
from salus.client.outgoing.nifti import write_nifti
from salus.client.outgoing.overlays import boxed, overlay, strip
from salus.client.outgoing.producer import Producer
from salus.client.outgoing.tables import write_table
from salus.client.predicting.answering import Answer
from salus.client.predicting.objects import CAPTURES, REPORTS, SEGMENTATIONS, DicomObjects, outlines, shown_mask
from salus.client.predicting.record import Outcome, Record
from salus.common.examples import Affine, Array
from salus.common.files import write_whole

MASKS, OVERLAYS, OBJECTS, BOXES = "masks", "overlays", "objects", "boxes"
ML_PER_MM3 = 1e-3


def kinds_of(*, seg: bool = False, sr: bool = False, sc: bool = False) -> frozenset[str]:
    """Return the kinds of files of a run: masks and overlays, and DICOM objects where they are wanted.

    The report of a segmentation refers to its DICOM object, so it brings that with it.
    """
    wanted = {SEGMENTATIONS: seg or sr, REPORTS: sr, CAPTURES: sc}
    return frozenset({MASKS, OVERLAYS, *(kind for kind, asked in wanted.items() if asked)})


@dataclass(frozen=True)
class Writer:
    """Writes the files of a run.

    Args:
        kinds: of files, such as ``masks`` and ``seg``.
        classes: the job's, with their codes.
        once: whether identifiers of DICOM objects follow from the sources alone, see `Producer`.
    """

    record: Record
    kinds: frozenset[str]
    classes: tuple[Coded, ...]
    producer: Producer
    once: bool = False

    def write(self, item: str, sample: Sample, answer: Answer, instances: Sequence[Instance]) -> Outcome:
        """Write an item's files and return its outcome; an output that this image cannot have is named in the outcome.

        Args:
            instances: headers of the source images in the order of their positions; empty for other data than DICOM.
        """
        name = self.record.name_for(item)
        volumes, unit = self._volumes(sample, answer)
        files: dict[str, str] = {}
        if answer.mask is not None and MASKS in self.kinds:
            files[MASKS] = self._mask(name, sample, answer.mask)
        if answer.objects and answer.mask is not None and MASKS in self.kinds:
            path = self.record.path(OBJECTS, name, ".csv")
            write_whole(path, objects_of(answer.mask).encode())
            files[OBJECTS] = f"{OBJECTS}/{path.name}"
        if answer.mask is not None and OVERLAYS in self.kinds:
            draw = strip if answer.objects and sample.values.ndim == 4 else overlay
            files[OVERLAYS] = self._picture(name, draw(sample.values, answer.mask, spacing_mm=sample.spacing_mm))
        if answer.boxes is not None:
            files |= self._boxes(name, sample, answer.boxes)
        producer = replace(self.producer, output=name) if self.once else self.producer
        objects = DicomObjects(self.record, self.kinds, self.classes, producer, instances)
        found, left_out = objects.write(name, sample, answer, volumes, unit)
        files |= found
        return Outcome(
            item=item,
            name=name,
            label=answer.label,
            probabilities=dict(answer.probabilities),
            values=dict(answer.values),
            volumes=volumes,
            unit=unit,
            files=files,
            left_out=left_out,
        )

    def _volumes(self, sample: Sample, answer: Answer) -> tuple[dict[str, float], Literal["", "ml", "pixels"]]:
        """Return the size of each structure, and its unit; pixels over all frames or slices where objects are counted."""
        if answer.mask is None:
            return {}, ""
        known = (
            not answer.objects
            and sample.values.ndim == 4
            and (sample.affine is not None or len(sample.spacing_mm) == 3)
        )
        voxel_mm3 = 1.0
        if known:
            affine = sample.affine
            voxel_mm3 = abs(float(np.linalg.det(affine))) if affine is not None else float(np.prod(sample.spacing_mm))
        mask = shown_mask(answer)
        layers = mask.ndim == sample.values.ndim
        counts = [
            np.count_nonzero(mask[number - 1] if layers else mask == number)
            for number in range(1, len(self.classes) + 1)
        ]
        one = voxel_mm3 * ML_PER_MM3 if known else 1.0
        return {
            each.name: count * one for each, count in zip(self.classes, counts, strict=True)
        }, "ml" if known else "pixels"

    def _mask(self, name: str, sample: Sample, mask: Array) -> str:
        if sample.values.ndim == 4:
            path = self.record.path(MASKS, name, ".nii.gz")
            write_nifti(path, mask, _affine(sample), sample.axes)
        else:
            path = self.record.path(MASKS, name, ".png" if mask.ndim == 2 else ".tif")
            write_whole(path, _encoded(mask))
        return f"{MASKS}/{path.name}"

    def _boxes(self, name: str, sample: Sample, boxes: Array) -> dict[str, str]:
        """Write the table of an image's boxes, and a picture with them unless it is a volume."""
        dims = sample.values.ndim - 1
        path = self.record.path(BOXES, name, ".csv")
        spacing, names = _spacing(sample), [each.name for each in self.classes]
        write_table(path, box_columns(dims, mm=bool(spacing)), box_rows(boxes, dims, names, spacing))
        files = {BOXES: f"{BOXES}/{path.name}"}
        if dims == 2 and OVERLAYS in self.kinds:
            files[OVERLAYS] = self._picture(name, boxed(sample.values, outlines(boxes), spacing_mm=sample.spacing_mm))
        return files

    def _picture(self, name: str, url: str) -> str:
        path = self.record.path(OVERLAYS, name, ".png")
        write_whole(path, base64.b64decode(url.partition(",")[2]))
        return f"{OVERLAYS}/{path.name}"


def objects_of(mask: Array) -> str:
    """Return the boxes of a mask's objects as lines of MOTChallenge's text (Dendorfer et al. 2021, arXiv 2010.07548).

    These are frame, number, left, top, width, height in pixels, 1, and three times -1 for what is not known; frames and
    numbers begin at 1. A clip or volume has its frames or slices first.
    """
    lines = []
    for frame, picture in enumerate(mask if mask.ndim == 3 else mask[None], start=1):
        for number in np.unique(picture[picture > 0]).tolist():
            rows, columns = np.nonzero(picture == number)
            top, left = int(rows.min()), int(columns.min())
            height, width = int(rows.max()) - top + 1, int(columns.max()) - left + 1
            lines.append(f"{frame},{number},{left + 1},{top + 1},{width},{height},1,-1,-1,-1\n")
    return "".join(lines)


def box_columns(dims: int, *, mm: bool = False) -> list[str]:
    """Return the columns of a table of boxes: class, score, the low and the high corner in pixels, and the sides.

    Args:
        mm: whether the sides are known in millimetres.
    """
    axes = "zyx"[-dims:]
    corners = [f"{axis}_{end}" for end in ("low", "high") for axis in axes]
    return ["class", "score", *corners, *(f"{axis}_mm" for axis in axes if mm)]


def box_rows(
    boxes: Array, dims: int, names: Sequence[str], spacing_mm: Sequence[float] = ()
) -> list[dict[str, object]]:
    """Return boxes as rows of their table, the best first; pixel 0 covers 0 to 1.

    Args:
        boxes: as in `Answer`.
        names: of the classes 1, 2 ...
        spacing_mm: of the image's pixels along each axis; empty where it is unknown, and the sides are left out.
    """
    columns = box_columns(dims, mm=bool(spacing_mm))
    found = []
    for *corners, kind, score in boxes.tolist():
        pairs = zip(corners[:dims], corners[dims:], spacing_mm, strict=True) if spacing_mm else ()
        numbers = [*corners, *((high - low) * side for low, high, side in pairs)]
        values = [names[int(kind) - 1], round(score, 4), *(round(number, 2) for number in numbers)]
        found.append(dict(zip(columns, values, strict=True)))
    return found


def _spacing(sample: Sample) -> tuple[float, ...]:
    """Return the distance between pixels along each axis of an image in millimetres; empty where it is unknown."""
    dims = sample.values.ndim - 1
    if sample.affine is not None:
        return tuple(float(side) for side in np.linalg.norm(sample.affine[:3, :3], axis=0)[-dims:])
    return sample.spacing_mm if len(sample.spacing_mm) == dims else ()


def _affine(sample: Sample) -> Affine:
    """Return a volume's affine; one from its spacing alone, or from nothing, where its place is unknown."""
    if sample.affine is not None:
        return sample.affine
    spacing = sample.spacing_mm if len(sample.spacing_mm) == 3 else (1.0, 1.0, 1.0)
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = spacing
    affine[3, 3] = 1.0
    return affine


def _encoded(mask: Array) -> bytes:
    """Return a mask of a picture as PNG, or its layers as the pages of a TIFF; pixels are the numbers of structures."""
    buffer = io.BytesIO()
    if mask.ndim == 2:
        Image.fromarray(mask).save(buffer, "PNG")
    else:
        first, *others = [Image.fromarray(layer) for layer in mask.astype(np.uint8)]
        first.save(buffer, "TIFF", save_all=True, append_images=others)
    return buffer.getvalue()
