"""The DICOM objects of one answer: a segmentation, a report, and a picture, each where its image can have one."""

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from salus.client.data.dicom.instances import Instance
from salus.client.data.records import Sample
from salus.client.outgoing.coding import Coded
from salus.client.outgoing.dicom_sc import write_capture
from salus.client.outgoing.dicom_seg import write_segmentation
from salus.client.outgoing.dicom_sr import write_label_report, write_volume_report
from salus.client.outgoing.overlays import boxed, legend, overlay
from salus.client.outgoing.planes import planes_of
from salus.client.outgoing.producer import Producer
from salus.client.predicting.answering import Answer
from salus.client.predicting.record import Record
from salus.common.errors import UnreadableImage
from salus.common.examples import Array

SEGMENTATIONS, REPORTS, CAPTURES = "seg", "sr", "sc"
PICTURE = 768  # pixels of a picture's longer side
Files = dict[str, str]


@dataclass(frozen=True)
class DicomObjects:
    """Writes the objects of one answer.

    Args:
        instances: headers of the source images, see `Writer.write`.
    """

    record: Record
    kinds: frozenset[str]
    classes: tuple[Coded, ...]
    producer: Producer
    instances: Sequence[Instance]

    def write(
        self, name: str, sample: Sample, answer: Answer, volumes: Mapping[str, float], unit: str
    ) -> tuple[Files, Files]:
        """Return the files that were written by kind, and why others were not, by kind."""
        files: Files = {}
        left_out: Files = {}
        kinds = [kind for kind in (SEGMENTATIONS, REPORTS, CAPTURES) if kind in self.kinds]
        with_mask = answer.mask is not None

        def segment() -> None:
            if with_mask:
                self._segmented(name, sample, answer, volumes if REPORTS in kinds else None, unit, files)

        def report() -> None:
            if not with_mask:
                files[REPORTS] = self._reported(name, answer)

        writers: dict[str, Callable[[], None]] = {SEGMENTATIONS: segment, REPORTS: report}
        writers[CAPTURES] = lambda: files.update({CAPTURES: self._captured(name, sample, answer, volumes, unit)})
        for kind in kinds:
            try:
                self._check(answer, kind)
                writers[kind]()
            except UnreadableImage as problem:
                left_out[kind] = problem.reason
        if with_mask and REPORTS in kinds and REPORTS not in files:
            left_out[REPORTS] = left_out.get(SEGMENTATIONS, "no-volume")
        return files, left_out

    def _check(self, answer: Answer, kind: str) -> None:
        if not self.instances:
            raise UnreadableImage("not-dicom", "DICOM objects are derived from DICOM images only")
        if not all(instance.exact for instance in self.instances):
            raise UnreadableImage("unclear-patient", "an object would name another PatientID than its image")
        if answer.boxes is not None and kind != CAPTURES:
            raise UnreadableImage("unsupported", "no DICOM object is written for boxes")

    def _segmented(
        self,
        name: str,
        sample: Sample,
        answer: Answer,
        volumes: Mapping[str, float] | None,
        unit: str,
        files: Files,
    ) -> None:
        """Write a segmentation and, if volumes are given and in millilitres, the report that refers to it."""
        path = self.record.path(SEGMENTATIONS, name, ".dcm")
        planes = _planes(sample, shown_mask(answer), self.instances)
        written = write_segmentation(path, planes, self.instances, self.classes, self.producer)
        files[SEGMENTATIONS] = f"{SEGMENTATIONS}/{path.name}"
        if volumes is not None and unit == "ml":
            path = self.record.path(REPORTS, name, ".dcm")
            write_volume_report(path, self.instances, written, volumes, self.classes, self.producer)
            files[REPORTS] = f"{REPORTS}/{path.name}"

    def _reported(self, name: str, answer: Answer) -> str:
        numbers = answer.probabilities or answer.values
        if set(numbers) != {one.name for one in self.classes}:
            raise UnreadableImage("no-report", "what the model says is no number for every class")
        path = self.record.path(REPORTS, name, ".dcm")
        write_label_report(
            path,
            self.instances,
            numbers,
            self.classes,
            self.producer,
            finding=answer.label,
            probable=bool(answer.probabilities),
        )
        return f"{REPORTS}/{path.name}"

    def _captured(self, name: str, sample: Sample, answer: Answer, volumes: Mapping[str, float], unit: str) -> str:
        path = self.record.path(CAPTURES, name, ".dcm")
        lines = list(_lines(answer, volumes, unit, [one.name for one in self.classes]))
        model = f"Model {self.producer.job}, {self.producer.model_sha256[:16]}, Salus {self.producer.version}"
        write_capture(path, _picture(sample, answer), [*lines, model], self.instances, self.producer)
        return f"{CAPTURES}/{path.name}"


def shown_mask(answer: Answer) -> Array:
    """Return the mask of an answer with numbers of structures; single objects are those of the first structure."""
    assert answer.mask is not None  # Safe because only answers with a mask are asked for it.
    return (answer.mask > 0).astype(np.uint8) if answer.objects else answer.mask


def outlines(boxes: Array) -> list[tuple[int, Array]]:
    """Return the class and the corners of two-dimensional boxes, as `overlays.boxed` takes them."""
    return [(int(box[4]), box[[0, 1, 0, 3, 2, 3, 2, 1]].reshape(4, 2)) for box in boxes]


def _lines(answer: Answer, volumes: Mapping[str, float], unit: str, classes: Sequence[str]) -> Iterator[str]:
    """Yield what a picture says: the finding first, then every number."""
    if answer.label:
        yield f"Finding: {answer.label}"
    for name, share in sorted(answer.probabilities.items(), key=lambda pair: -pair[1]):
        yield f"{name}: probability {share:.3f}"
    for name, value in answer.values.items():
        yield f"{name}: {value:.4g}"
    for name, size in volumes.items():
        yield f"{name}: {size:.4g} {unit}"
    if answer.mask is not None or answer.boxes is not None:
        yield legend(classes)


def _picture(sample: Sample, answer: Answer) -> Image.Image:
    """Return the image with what was found; of a volume, the slice with most of it."""
    values = sample.values
    if answer.boxes is not None and values.ndim == 3:
        url = boxed(values, outlines(answer.boxes), spacing_mm=sample.spacing_mm, side=PICTURE)
    else:
        mask = shown_mask(answer) if answer.mask is not None else np.zeros(values.shape[1:], np.uint8)
        url = overlay(values, mask, spacing_mm=sample.spacing_mm, side=PICTURE)
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def _planes(sample: Sample, mask: Array, instances: Sequence[Instance]) -> Array:
    """Return a mask on the pixels of its source images: ``[instances, rows, columns]``, with a last axis for layers."""
    if sample.values.ndim == 3:
        return mask[None] if mask.ndim == 2 else np.moveaxis(mask, 0, -1)[None]
    if sample.affine is None:
        raise UnreadableImage("no-position", "the volume has no position in the patient")
    if any(instance.frames != 1 for instance in instances):
        raise UnreadableImage("several-frames", "a file with several frames")
    if mask.ndim == 3:
        return planes_of(mask, sample.affine, instances)
    return np.stack([planes_of(layer, sample.affine, instances) for layer in mask], axis=-1)
