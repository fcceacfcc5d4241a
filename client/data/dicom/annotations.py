"""Labels from DICOM objects that hospitals already have: segmentations, structure sets, and measurements in reports.

    SEG, RTSTRUCT    each structure's volume in millilitres, by its label
    SR               each numeric measurement, by the name of its concept, in its own unit

A measurement belongs to the studies that its object refers to, or to its own study where it refers to none.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated

import numpy as np
from pydantic import Field
from pydicom.dataset import Dataset

from salus.client.data.dicom.references import SEGMENTATIONS, STRUCTURE_SET
from salus.client.data.dicom.volumetry import contour_volumes, segment_volumes
from salus.client.data.identity import normalised
from salus.common.errors import UnreadableImage
from salus.common.strict import Strict

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
    """Return the numbers of a SEG, RTSTRUCT or SR object; raises UnreadableImage for another object, or too many numbers."""
    kind = str(dataset.get("SOPClassUID", ""))
    if kind in SEGMENTATIONS:
        found = list(_volumes(dataset, segment_volumes(dataset)))
    elif kind == STRUCTURE_SET:
        found = list(_volumes(dataset, contour_volumes(dataset)))
    elif kind.startswith(REPORTS):
        found = list(_measurements(dataset))
    else:
        raise UnreadableImage("no-annotation", "neither a segmentation nor a structure set nor a structured report")
    if len(found) > MAX_FOUND:
        raise UnreadableImage("too-large", f"more than {MAX_FOUND} numbers")
    return found


def _volumes(dataset: Dataset, found: Mapping[str, float]) -> Iterator[Annotation]:
    for name, value in found.items():
        for study in _studies(dataset):
            yield _annotation(dataset, study, name, value, "ml")


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
    found += [
        str(study.get("ReferencedSOPInstanceUID", ""))
        for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []
        for study in frame.get("RTReferencedStudySequence") or []
    ]
    return sorted({study for study in found if study}) or [str(dataset.get("StudyInstanceUID", ""))]
