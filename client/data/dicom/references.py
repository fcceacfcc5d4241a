"""Which images an annotation object refers to, and whether they are where it says."""

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from salus.client.data.dicom.picture import DicomImage
from salus.client.data.identity import normalised
from salus.common.errors import UnreadableImage

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # the second one for label maps
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"  # RTSTRUCT
ANNOTATIONS = (*SEGMENTATIONS, STRUCTURE_SET)
HEAD_BYTES = 4096
MAX_REFERENCES = 10**6
ELSEWHERE = UnreadableImage("annotation-reference", "it refers to images that are not here")


@dataclass(frozen=True)
class References:
    """What an annotation object says about the images that it belongs to.

    Args:
        series: UIDs of the series; empty if it names none.
        instances: UIDs of the images, in all series.
    """

    patient: str
    study: str
    series: tuple[str, ...]
    instances: frozenset[str]
    frame_of_reference: str


def is_annotation(head: bytes) -> bool:
    """Return whether a file that begins like this is a segmentation or a structure set; never raises."""
    if head[128:132] != b"DICM":
        return False
    try:
        file = io.BytesIO(head)
        read_preamble(file, force=False)
        return str(_read_file_meta_info(file).get("MediaStorageSOPClassUID", "")) in ANNOTATIONS
    except Exception:  # damaged files raise anything; the decoder will report them
        return False


def parsed(data: bytes) -> Dataset:
    """Return an annotation's elements; raises UnreadableImage for a deflated file."""
    file = io.BytesIO(data)
    read_preamble(file, force=False)
    if _read_file_meta_info(file).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise UnreadableImage("unsupported", "deflated; a small file can expand without bound")
    return dcmread(io.BytesIO(data))


def references_of(dataset: Dataset) -> References:
    """Return the references of a segmentation or structure set."""
    series: list[str] = []
    instances: set[str] = set()
    for item in _series(dataset):
        series.append(str(item.get("SeriesInstanceUID", "")))
        for name in ("ReferencedInstanceSequence", "ContourImageSequence"):
            instances |= {str(one.get("ReferencedSOPInstanceUID", "")) for one in item.get(name) or []}
        if len(instances) > MAX_REFERENCES or len(series) > MAX_REFERENCES:
            raise UnreadableImage("too-large", "an annotation with too many references")
    frames = dataset.get("ReferencedFrameOfReferenceSequence") or []
    frame = dataset.get("FrameOfReferenceUID") or (frames[0].get("FrameOfReferenceUID") if frames else "")
    return References(
        normalised(str(dataset.get("PatientID", "") or "")),
        normalised(str(dataset.get("StudyInstanceUID", "") or "")),
        tuple(sorted({normalised(uid) for uid in series if uid})),
        frozenset(instances - {""}),
        str(frame or ""),
    )


def _series(dataset: Dataset) -> Iterator[Dataset]:
    yield from dataset.get("ReferencedSeriesSequence") or []
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            yield from study.get("RTReferencedSeriesSequence") or []


def check(references: References, slices: Sequence[DicomImage], others: Collection[str] | None) -> None:
    """Raise UnreadableImage unless an annotation belongs to these images: their series, and no image that is missing.

    Args:
        others: UIDs of the images of other volumes of the series; None where they are not known.
    """
    first = slices[0]
    if references.series and first.series_uid not in references.series:
        raise ELSEWHERE
    here = {image.instance_uid for image in slices}
    if others is not None and len(references.series) == 1 and not references.instances <= here | set(others):
        raise ELSEWHERE
    if references.instances and not references.instances & here:
        raise ELSEWHERE
    frames = {references.frame_of_reference, first.frame_of_reference} - {""}
    if len(frames) > 1:
        raise UnreadableImage("annotation-geometry", "it lies in another frame of reference than its images")
    if (
        not references.series
        and not references.instances
        and not (references.frame_of_reference and first.frame_of_reference)
    ):
        raise ELSEWHERE


def by_instance(slices: Sequence[DicomImage]) -> Mapping[str, DicomImage]:
    """Return images by their UID; the frames of one enhanced object, which share it, as one image without a place."""
    found: dict[str, DicomImage] = {}
    for image in slices:
        if image.instance_uid in found:
            image = replace(image, geometry=replace(image.geometry, position=None))
        if image.instance_uid:
            found[image.instance_uid] = image
    return found


def functional_group(dataset: Dataset, frame: Dataset, sequence: str) -> Dataset:
    """Return a functional-group item, the frame's own or else the shared one; raises UnreadableImage if there is neither."""
    for place in (frame, *dataset.get("SharedFunctionalGroupsSequence", [])):
        if place.get(sequence):
            item: Dataset = place[sequence].value[0]
            return item
    raise UnreadableImage("damaged", "a segmentation whose frames lack a required functional group")
