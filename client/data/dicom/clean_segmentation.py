"""De-identification of segmentations by allow-list: a new binary object from decoded frames, numbers and named structures.

As for images, what is kept is rebuilt and never copied. Labels of segments are free text, so only those that the operator
named are kept, and segments with other labels are dropped with their frames. References become the new identifiers of the
images, which are the same function of the old ones, so the object still belongs to its series.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pack_bits
from pydicom.sequence import Sequence

from salus.client.data.dicom.deidentify import Clean, Rules, finite, identify, standard_class, uid
from salus.client.data.dicom.matching import others_of
from salus.client.data.dicom.references import SEGMENTATIONS, functional_group
from salus.client.data.dicom.segmentation import KINDS, background_of, refuse_own, segments_of
from salus.client.data.dicom.stored import MAX_PIXELS
from salus.client.data.dicom.writing import as_file
from salus.client.data.identity import normalised
from salus.common.errors import UnreadableImage
from salus.common.vocabulary import vendor_of

MAX_SOURCES = 16  # images that one frame is derived from; usually one
ALGORITHMS = ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL")
TISSUE = ("85756007", "SCT", "Tissue")  # the standard requires a code, and the object's own may be a private one


@dataclass(frozen=True)
class _Frame:
    """One frame that is kept.

    Args:
        structure: its number in the new object, from 1.
        sources: class and new identifier of the images that it is derived from.
    """

    structure: int
    marked: npt.NDArray[np.bool_]
    position: tuple[float, ...]
    sources: tuple[tuple[str, str], ...]


def deidentify_segmentation(dataset: Dataset, rules: Rules) -> Clean:
    """Return the de-identified object of a segmentation, with the structures that `rules` names.

    Raises:
        UnreadableImage: no patient, none of these structures, no geometry, or a kind that is not supported.
    """
    patient_id = str(dataset.get("PatientID", "") or "")
    if not normalised(patient_id):
        raise UnreadableImage("no-patient", "no PatientID, so it cannot be assigned to a patient")
    refuse_own(dataset)
    labels = segments_of(dataset)
    kept = {number: label for number, label in labels.items() if label in rules.structures}
    if not kept:
        raise UnreadableImage("other-structures", "it has none of the structures that are named for this import")
    patient = rules.pseudonym("patient", patient_id)
    frames = list(_frames(dataset, rules, {number: place for place, number in enumerate(sorted(kept), start=1)}))
    clean = Dataset()
    identify(clean, dataset, patient, rules)
    clean.SOPClassUID, clean.Modality = SEGMENTATIONS[0], "SEG"
    clean.Manufacturer = vendor_of(dataset.get("Manufacturer"))
    clean.SegmentationType = "BINARY"
    clean.SegmentSequence = Sequence(
        _segment(place, dataset, number, kept[number]) for place, number in enumerate(sorted(kept), start=1)
    )
    _geometry(clean, dataset, frames)
    _references(clean, dataset, rules)
    _pixels(clean, frames)
    data = as_file(clean)
    study = rules.pseudonym("study", str(dataset.get("StudyInstanceUID", "") or ""))
    counts = {"kept": len(clean), "dropped": max(0, len(dataset) - len(clean)), "private": 0, "sequences": 0}
    return Clean(
        data,
        hashlib.sha256(data).hexdigest(),
        patient,
        study,
        clean.Manufacturer,
        rules.seal(patient_id),
        counts,
        annotation=True,
        others=others_of(dataset, rules.pseudonym, rules.secret, patient_id),
    )


def _frames(dataset: Dataset, rules: Rules, numbers: dict[int, int]) -> Iterator[_Frame]:
    """Yield one frame for each structure and plane; if nothing is marked anywhere, one empty frame."""
    kind = str(dataset.get("SegmentationType", ""))
    count, rows, columns = int(dataset.get("NumberOfFrames", 1) or 1), int(dataset.Rows), int(dataset.Columns)
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if kind not in KINDS or len(groups) != count:
        raise UnreadableImage("unsupported", "a segmentation of an unknown kind, or without a position for each frame")
    if not 0 < rows * columns * count <= MAX_PIXELS:
        raise UnreadableImage("too-large", "a segmentation with too many pixels")
    least = float(dataset.get("MaximumFractionalValue", 255) or 255) / 2 if kind == "FRACTIONAL" else 1
    yielded = False
    for frame, group in zip(dataset.pixel_array.reshape(count, rows, columns), groups, strict=True):
        position = tuple(_numbers(functional_group(dataset, group, "PlanePositionSequence"), "ImagePositionPatient"))
        sources = tuple(_sources(group, rules))
        if kind == "LABELMAP":
            found = {number: frame == number for number in numbers if number != background_of(dataset)}
        else:
            number = int(functional_group(dataset, group, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            found = {number: frame >= least} if number in numbers else {}
        for number, marked in found.items():
            if marked.any() or kind != "LABELMAP":
                yielded = True
                yield _Frame(numbers[number], marked, position, sources)
    if not yielded:
        position = tuple(
            _numbers(functional_group(dataset, groups[0], "PlanePositionSequence"), "ImagePositionPatient")
        )
        yield _Frame(1, np.zeros((rows, columns), bool), position, tuple(_sources(groups[0], rules)))


def _sources(group: Dataset, rules: Rules) -> Iterator[tuple[str, str]]:
    derived = [
        one for item in group.get("DerivationImageSequence") or [] for one in item.get("SourceImageSequence") or []
    ]
    for source in derived[:MAX_SOURCES]:
        value = str(source.get("ReferencedSOPInstanceUID", "") or "")
        if value:
            yield standard_class(str(source.get("ReferencedSOPClassUID", ""))), uid(rules.secret, value)


def _numbers(item: Dataset, keyword: str, count: int = 3) -> list[float]:
    values = [float(value) for value in finite(item.get(keyword))]
    if len(values) != count:
        raise UnreadableImage("bad-geometry", "a segmentation that does not say where its planes lie")
    return values


def _segment(place: int, dataset: Dataset, number: int, label: str) -> Dataset:
    own = next(item for item in dataset.SegmentSequence if int(item.SegmentNumber) == number)
    algorithm = str(own.get("SegmentAlgorithmType", ""))
    made = _item(SegmentNumber=place, SegmentLabel=label)
    made.SegmentAlgorithmType = algorithm if algorithm in ALGORITHMS else "MANUAL"
    if made.SegmentAlgorithmType != "MANUAL":
        made.SegmentAlgorithmName = "REMOVED"
    for keyword in ("SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"):
        value, scheme, meaning = TISSUE
        code = _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)
        setattr(made, keyword, Sequence([code]))
    return made


def _geometry(clean: Dataset, dataset: Dataset, frames: list[_Frame]) -> None:
    """Write the orientation and the measures that all frames share, and each frame's position, structure and sources."""
    first = dataset.PerFrameFunctionalGroupsSequence[0]
    given = functional_group(dataset, first, "PixelMeasuresSequence")
    measures = _item(PixelSpacing=_numbers(given, "PixelSpacing", 2))
    for keyword in ("SliceThickness", "SpacingBetweenSlices"):
        numbers = finite(given.get(keyword))
        if len(numbers) == 1:
            setattr(measures, keyword, numbers[0])
    directions = _numbers(functional_group(dataset, first, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        other = _numbers(functional_group(dataset, group, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
        if not np.allclose(directions, other, atol=1e-4):
            raise UnreadableImage("bad-geometry", "a segmentation whose planes are not parallel")
    shared = _item(
        PixelMeasuresSequence=Sequence([measures]),
        PlaneOrientationSequence=Sequence([_item(ImageOrientationPatient=directions)]),
    )
    clean.SharedFunctionalGroupsSequence = Sequence([shared])
    clean.PerFrameFunctionalGroupsSequence = Sequence(_group(frame) for frame in frames)


def _group(frame: _Frame) -> Dataset:
    group = _item(
        PlanePositionSequence=Sequence([_item(ImagePositionPatient=list(frame.position))]),
        SegmentIdentificationSequence=Sequence([_item(ReferencedSegmentNumber=frame.structure)]),
    )
    if frame.sources:
        images = [_item(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=name) for kind, name in frame.sources]
        group.DerivationImageSequence = Sequence([_item(SourceImageSequence=Sequence(images))])
    return group


def _references(clean: Dataset, dataset: Dataset, rules: Rules) -> None:
    series = []
    for one in dataset.get("ReferencedSeriesSequence") or []:
        images = [
            _item(
                ReferencedSOPClassUID=standard_class(str(image.get("ReferencedSOPClassUID", ""))),
                ReferencedSOPInstanceUID=uid(rules.secret, str(image.ReferencedSOPInstanceUID)),
            )
            for image in one.get("ReferencedInstanceSequence") or []
        ]
        name = uid(rules.secret, str(one.SeriesInstanceUID))
        series.append(_item(SeriesInstanceUID=name, ReferencedInstanceSequence=Sequence(images)))
    if series:
        clean.ReferencedSeriesSequence = Sequence(series)


def _pixels(clean: Dataset, frames: list[_Frame]) -> None:
    clean.NumberOfFrames = len(frames)
    clean.Rows, clean.Columns = frames[0].marked.shape
    clean.SamplesPerPixel, clean.PhotometricInterpretation, clean.PixelRepresentation = 1, "MONOCHROME2", 0
    clean.BitsAllocated, clean.BitsStored, clean.HighBit = 1, 1, 0
    clean.LossyImageCompression, clean.BurnedInAnnotation = "00", "NO"
    packed = pack_bits(np.stack([frame.marked for frame in frames]).astype(np.uint8), pad=True)
    clean.add_new("PixelData", "OB", packed)


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
