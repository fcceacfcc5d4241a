"""DICOM segmentations (PS3.3 A.51, C.8.20): binary, fractional and label maps, placed by the positions of their planes.

A fractional pixel belongs to its segment from half of the largest value on. Frames that are left out are empty.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from salus.client.data.dicom.geometry import Geometry, read_geometry
from salus.client.data.dicom.picture import DicomImage
from salus.client.data.dicom.planes import Marked, Stack, drawn, stack_of
from salus.client.data.dicom.references import ELSEWHERE, by_instance, functional_group
from salus.client.data.dicom.stored import MAX_PIXELS
from salus.client.data.structures import Mask
from salus.client.data.targets import MAX_NAMES
from salus.client.outgoing.producer import MANUFACTURER
from salus.common.errors import UnreadableImage

KINDS = ("BINARY", "FRACTIONAL", "LABELMAP")
Array = npt.NDArray[Any]


def segments_of(dataset: Dataset) -> dict[int, str]:
    """Return the labels of the segments by their number; raises UnreadableImage for none, or too many."""
    found = {int(item.SegmentNumber): str(item.get("SegmentLabel", "") or "") for item in dataset.SegmentSequence}
    if dataset.get("SegmentationType") == "LABELMAP":
        found.pop(background_of(dataset), None)
    if not 0 < len(found) <= MAX_NAMES or not all(found.values()):
        raise UnreadableImage(
            "damaged", "a segmentation without segments, with too many, or with one that has no label"
        )
    return found


def refuse_own(dataset: Dataset) -> None:
    """Raise UnreadableImage for what Salus has predicted: a model must not be trained on its own answers."""
    if str(dataset.get("Manufacturer", "")) == MANUFACTURER:
        raise UnreadableImage("own-prediction", "a prediction of Salus, not an annotation by people")


def background_of(dataset: Dataset) -> int:
    """Return the number that stands for no segment in a label map."""
    return int(dataset.get("PixelPaddingValue", 0) or 0)


def read_segmentation(
    dataset: Dataset, slices: Sequence[DicomImage], wanted: Sequence[str], others: Collection[str] | None
) -> tuple[Mask, Stack]:
    """Return a segmentation on the grid of its own planes.

    Args:
        slices: the images that it refers to, each compared with its frame; none if they are not at hand.
        wanted: labels of the segments to use, in this order; empty for all, in the order of their numbers.
        others: UIDs of images that it may refer to beside these; None for any.

    Raises:
        UnreadableImage: damaged, unsupported, too large, without geometry, or a reference that does not agree with it.
    """
    refuse_own(dataset)
    kind = str(dataset.get("SegmentationType", ""))
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if kind not in KINDS:
        raise UnreadableImage("unsupported", "a segmentation that is neither binary nor fractional nor a label map")
    if not 0 < rows * columns * frames <= MAX_PIXELS:
        raise UnreadableImage("too-large", "a segmentation with too many pixels")
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if len(groups) != frames:
        raise UnreadableImage("damaged", "a segmentation without a position for each frame")
    geometries = [_geometry(dataset, group) for group in groups]
    stack = stack_of(geometries, rows, columns, _thickness_mm(dataset, groups[0]))
    known = by_instance(slices)
    planes = [_plane(stack, geometry, group, known, others) for geometry, group in zip(geometries, groups, strict=True)]
    labels = segments_of(dataset)
    names = tuple(wanted) or tuple(dict.fromkeys(labels[number] for number in sorted(labels)))
    places = {name: number for number, name in enumerate(names, start=1)}
    numbers = {segment: places.get(label, 0) for segment, label in labels.items()}
    pixels = dataset.pixel_array.reshape(frames, rows, columns)
    return drawn(stack, _marked(dataset, kind, pixels, groups, planes, numbers), names), stack


def _marked(
    dataset: Dataset,
    kind: str,
    pixels: Array,
    groups: Sequence[Dataset],
    planes: Sequence[int],
    numbers: Mapping[int, int],
) -> Iterator[Marked]:
    least = float(dataset.get("MaximumFractionalValue", 255) or 255) / 2 if kind == "FRACTIONAL" else 1
    for frame, group, plane in zip(pixels, groups, planes, strict=True):
        if kind != "LABELMAP":
            item = functional_group(dataset, group, "SegmentIdentificationSequence")
            number = numbers[int(item.ReferencedSegmentNumber)]
            if number:
                yield Marked(number, plane, frame >= least)
            continue
        for segment in set(np.flatnonzero(np.bincount(frame.reshape(-1))).tolist()) - {background_of(dataset)}:
            if segment not in numbers:
                raise UnreadableImage("unknown-structure", "a label map with a number that belongs to no segment")
            if numbers[segment]:
                yield Marked(numbers[segment], plane, frame == segment)


def _geometry(dataset: Dataset, group: Dataset) -> Geometry:
    plane = Dataset()
    plane.ImagePositionPatient = functional_group(dataset, group, "PlanePositionSequence").ImagePositionPatient
    plane.ImageOrientationPatient = functional_group(dataset, group, "PlaneOrientationSequence").ImageOrientationPatient
    plane.PixelSpacing = functional_group(dataset, group, "PixelMeasuresSequence").PixelSpacing
    return read_geometry(plane)


def _thickness_mm(dataset: Dataset, group: Dataset) -> float:
    measures = functional_group(dataset, group, "PixelMeasuresSequence")
    values = (measures.get(name) for name in ("SpacingBetweenSlices", "SliceThickness"))
    found = next((abs(float(value)) for value in values if value), 0.0)
    return found if np.isfinite(found) else 0.0


def _plane(
    stack: Stack, geometry: Geometry, group: Dataset, known: Mapping[str, DicomImage], others: Collection[str] | None
) -> int:
    """Return a frame's plane, after comparing it with the image that the frame was derived from."""
    position = geometry.position
    assert position is not None  # Safe because `stack_of` has checked every plane.
    place = stack.place_of(position)
    sources = [
        str(source.get("ReferencedSOPInstanceUID", ""))
        for derivation in group.get("DerivationImageSequence") or []
        for source in derivation.get("SourceImageSequence") or []
    ]
    if len(sources) == 1 and known:
        image = known.get(sources[0])
        if image is None and others is not None and sources[0] not in others:
            raise ELSEWHERE
        where = None if image is None else image.geometry.position
        if len(known) > 1 and where is not None and abs(stack.place_of(where) - place) > stack.reach_mm:
            raise UnreadableImage("annotation-geometry", "a frame does not lie where the image lies that it refers to")
    return stack.plane_at(place)
