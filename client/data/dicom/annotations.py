"""Labels from DICOM objects that hospitals already have: segmentations (SEG) and measurements in structured reports (SR).

    SEG    each segment's volume in millilitres, by the segment's label
    SR     each numeric measurement, by the name of its concept, in its own unit

A measurement belongs to the studies that its object refers to, or to its own study where it refers to none.
"""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from pydantic import Field
from pydicom.dataset import Dataset

from salus.client.data.dicom.stored import MAX_PIXELS
from salus.client.data.identity import normalised
from salus.common.errors import UnreadableImage
from salus.common.strict import Strict

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # the second one for label maps
REPORTS = "1.2.840.10008.5.1.4.1.1.88."  # prefix of the storage classes of structured reports
MAX_FOUND = 2000
Text = Annotated[str, Field(max_length=200)]


class Annotation(Strict):
    """One measured value.

    Args:
        study: StudyInstanceUID of the measured images.
        name: the segment's label, or the meaning of the measured concept.
        unit: ``ml`` for segments, a report's own for measurements.
    """

    study: Text
    patient: Text
    name: Text
    value: Annotated[float, Field(allow_inf_nan=False)]
    unit: Text


def annotations_of(dataset: Dataset) -> list[Annotation]:
    """Return the numbers of a SEG or SR object; raises UnreadableImage for another object, or too many numbers."""
    kind = str(dataset.get("SOPClassUID", ""))
    if kind in SEGMENTATIONS:
        found = list(_segments(dataset))
    elif kind.startswith(REPORTS):
        found = list(_measurements(dataset))
    else:
        raise UnreadableImage("no-annotation", "neither a segmentation nor a structured report")
    if len(found) > MAX_FOUND:
        raise UnreadableImage("too-large", f"more than {MAX_FOUND} numbers")
    return found


def _segments(dataset: Dataset) -> Iterator[Annotation]:
    kind = str(dataset.get("SegmentationType", ""))
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise UnreadableImage("unsupported", "a segmentation that is neither binary nor fractional nor a label map")
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    if not 0 < int(dataset.Rows) * int(dataset.Columns) * frames <= MAX_PIXELS:
        raise UnreadableImage("too-large", "a segmentation with too many pixels")
    full = float(dataset.get("MaximumFractionalValue", 1) or 1) if kind == "FRACTIONAL" else 1.0
    labels = {int(item.SegmentNumber): str(item.SegmentLabel) for item in dataset.SegmentSequence}
    background = int(dataset.get("PixelPaddingValue", 0) or 0) if kind == "LABELMAP" else 0
    labels.pop(background, None)
    volumes = dict.fromkeys(labels, 0.0)
    pixels = dataset.pixel_array.reshape(frames, int(dataset.Rows), int(dataset.Columns))
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or [Dataset()] * frames
    several = _planes(dataset) > 1
    for frame, group in zip(pixels, groups, strict=True):
        voxel_ml = _voxel_ml(dataset, group, several=several)
        if kind == "LABELMAP":
            for number in set(np.unique(frame).tolist()) - {background}:
                volumes[number] += float((frame == number).sum()) * voxel_ml
            continue
        number = int(functional_group(dataset, group, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        volumes[number] += float(frame.sum(dtype=np.float64)) / full * voxel_ml
    for number, label in labels.items():
        for study in _studies(dataset):
            yield _annotation(dataset, study, label, volumes[number], "ml")


def _planes(dataset: Dataset) -> int:
    """Return the number of planes that a segmentation's frames lie in."""
    places = set()
    for frame in dataset.get("PerFrameFunctionalGroupsSequence") or []:
        position = (frame.get("PlanePositionSequence") or [Dataset()])[0].get("ImagePositionPatient")
        places.add(tuple(position) if position else ())
    return len(places)


def functional_group(dataset: Dataset, frame: Dataset, sequence: str) -> Dataset:
    """Return a functional-group item, the frame's own or else the shared one; raises UnreadableImage if there is neither."""
    for place in (frame, *dataset.get("SharedFunctionalGroupsSequence", [])):
        if place.get(sequence):
            item: Dataset = place[sequence].value[0]
            return item
    raise UnreadableImage("damaged", "a segmentation whose frames lack a required functional group")


def _voxel_ml(dataset: Dataset, frame: Dataset, *, several: bool) -> float:
    measures = functional_group(dataset, frame, "PixelMeasuresSequence")
    # If there is only one slice, writers put arbitrary values into the slice spacing.
    names = ("SpacingBetweenSlices", "SliceThickness") if several else ("SliceThickness",)
    depth = next((measures.get(name) for name in names if measures.get(name)), 0.0)
    rows, columns = (float(value) for value in measures.PixelSpacing)
    volume = rows * columns * abs(float(depth)) / 1000.0
    if not 0 < volume < np.inf:
        raise UnreadableImage("bad-geometry", "a segmentation without a voxel size")
    return volume


def _measurements(dataset: Dataset) -> Iterator[Annotation]:
    for item in _content(dataset):
        if item.get("ValueType") != "NUM":
            continue
        if not item.get("MeasuredValueSequence"):
            continue  # a measurement without a value
        measured = item.MeasuredValueSequence[0]
        unit = measured.get("MeasurementUnitsCodeSequence") or [Dataset()]
        name = str(item.ConceptNameCodeSequence[0].CodeMeaning)
        for study in _studies(dataset):
            yield _annotation(dataset, study, name, float(measured.NumericValue), str(unit[0].get("CodeValue", "")))


def _content(item: Dataset) -> Iterator[Dataset]:
    """Yield every content item below this one; nesting was limited when the file was parsed."""
    for child in item.get("ContentSequence") or []:
        yield child
        yield from _content(child)


def _annotation(dataset: Dataset, study: str, name: str, value: float, unit: str) -> Annotation:
    if not study:
        raise UnreadableImage("no-study", "no StudyInstanceUID")
    if not np.isfinite(value):
        raise UnreadableImage("not-finite", "a measurement that is not a finite number")
    patient = normalised(str(dataset.get("PatientID", "") or ""))
    return Annotation(
        study=normalised(study)[:200], patient=patient[:200], name=name[:200], value=value, unit=unit[:200]
    )


def _studies(dataset: Dataset) -> list[str]:
    """Return the studies that an object refers to, or its own study if it refers to none."""
    found = [
        str(item.get("StudyInstanceUID", ""))
        for name in ("CurrentRequestedProcedureEvidenceSequence", "StudiesContainingOtherReferencedInstancesSequence")
        for item in dataset.get(name) or []
    ]
    return sorted({study for study in found if study}) or [str(dataset.get("StudyInstanceUID", ""))]
