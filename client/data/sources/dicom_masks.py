"""The segmentations and structure sets of a DICOM folder: which images they belong to, and the masks that they become."""

import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from salus.client.data.dicom.contours import read_contours
from salus.client.data.dicom.picture import DicomImage, guarded
from salus.client.data.dicom.planes import Stack, placed
from salus.client.data.dicom.references import HEAD_BYTES, STRUCTURE_SET, check, is_annotation, parsed, references_of
from salus.client.data.dicom.segmentation import read_segmentation
from salus.client.data.records import Quarantined
from salus.client.data.sources.base import Files
from salus.client.data.sources.masks import combined
from salus.client.data.sources.settings import DicomSettings
from salus.client.data.structures import Mask, Structures
from salus.common.errors import DataError, UnreadableImage

Float64 = npt.NDArray[np.float64]


def is_mask(files: Files, name: str) -> bool:
    """Return whether a file is a segmentation or a structure set, by its first bytes."""
    try:
        return is_annotation(bytes(files.read(name, 0, HEAD_BYTES)))
    except UnreadableImage:
        return False


def group_of(data: bytes) -> str:
    """Return the group of the series that an annotation belongs to, as `DicomFolder.group` names it.

    Raises:
        UnreadableImage: as in `read_mask`, and ``several-series`` for one that refers to none or to several.
    """
    found = guarded("the file", lambda: references_of(parsed(data)))
    if len(found.series) != 1:
        raise UnreadableImage("several-series", "it does not refer to exactly one series of images")
    return json.dumps([found.patient, found.study, found.series[0], ""])


def read_mask(
    data: bytes,
    slices: Sequence[DicomImage],
    affine: Float64 | None,
    shape: Sequence[int],
    wanted: Sequence[str],
    others: Collection[str] | None = None,
) -> Mask:
    """Return an annotation object's mask on the grid of its images.

    Args:
        slices: the images that it refers to.
        affine: of their grid, from (z, y, x) to millimetres, LPS.
        shape: of their grid, (z, y, x).
        wanted: names of the structures to use; empty for all.
        others: UIDs of the images of other volumes of the series, to which it may refer too; None where they are not known.

    Raises:
        UnreadableImage: it cannot be used; with the reason.
    """

    def read() -> tuple[Mask, Stack]:
        dataset = parsed(data)
        check(references_of(dataset), slices, others)
        contours = str(dataset.get("SOPClassUID", "")) == STRUCTURE_SET
        return (read_contours if contours else read_segmentation)(dataset, slices, wanted, others)

    if affine is None:
        raise UnreadableImage("annotation-geometry", "its image does not say where it lies in the patient")
    mask, stack = guarded("the file", read)
    return placed(mask, stack, affine, shape)


def read_slice(data: bytes, image: DicomImage, affine: Float64 | None, wanted: Sequence[str]) -> Mask:
    """Return a segmentation's mask of one plane, ``[1, rows, columns]``, empty where no frame lies; errors as in `read_mask`."""
    if affine is None or image.geometry.position is None:
        raise UnreadableImage("annotation-geometry", "its image does not say where it lies in the patient")
    if references_of(guarded("the file", lambda: parsed(data))).frame_of_reference not in (
        "",
        image.frame_of_reference,
    ):
        raise UnreadableImage("annotation-geometry", "it lies in another frame of reference than its images")
    mask, stack = _segmentation(data, tuple(wanted))
    plane = stack.plane_at(stack.place_of(image.geometry.position))
    shape = (1, *image.values.shape[-2:])
    if plane < 0:
        return Mask(np.zeros(shape, np.uint8), mask.names, 0.0)
    there = replace(mask, values=mask.values[..., plane : plane + 1, :, :])
    return placed(there, stack.only(plane), affine, shape)


@functools.lru_cache(maxsize=1)  # the slices of one series follow each other
def _segmentation(data: bytes, wanted: tuple[str, ...]) -> tuple[Mask, Stack]:
    def read() -> tuple[Mask, Stack]:
        dataset = parsed(data)
        if str(dataset.get("SOPClassUID", "")) == STRUCTURE_SET:
            raise UnreadableImage("unsupported", "a structure set needs whole volumes; register with --volumes")
        return read_segmentation(dataset, (), wanted, None)

    return guarded("the file", read)


@dataclass(frozen=True)
class MaskIndex:
    """The annotation objects in the operator's folder, by the images that they refer to."""

    by_series: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    by_instance: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    names: frozenset[str] = frozenset()

    def of(self, slices: Iterable[DicomImage]) -> list[str]:
        """Return the annotation objects that refer to any of these images, or to their whole series."""
        found: set[str] = set()
        for image in slices:
            mine = self.by_instance.get(image.instance_uid, ())
            found |= set(mine or self.by_series.get(image.series_uid, ()))
        return sorted(found)


def index_of(files: Files, options: DicomSettings) -> MaskIndex:
    """Return what is in the folder that `masks` names; raises DataError if it does not exist."""
    if not options.masks:
        return MaskIndex()
    try:
        names = [name for name in files.names("" if options.masks == "." else options.masks) if is_mask(files, name)]
    except UnreadableImage:
        raise DataError("Expected a folder of masks, found no folder of this name.", remedy="Check --masks.") from None
    series: dict[str, list[str]] = defaultdict(list)
    instances: dict[str, list[str]] = defaultdict(list)
    for name in names:
        try:
            data = bytes(files.read(name))
            found = guarded("the file", lambda data=data: references_of(parsed(data)))  # type: ignore[misc]
        except UnreadableImage:
            continue  # reported when the file itself is examined
        for uid in found.series if not found.instances else ():
            series[uid].append(name)
        for uid in found.instances:
            instances[uid].append(name)
    return MaskIndex(
        {uid: tuple(mine) for uid, mine in series.items()},
        {uid: tuple(mine) for uid, mine in instances.items()},
        frozenset(names),
    )


@dataclass(frozen=True)
class Masked:
    """What the annotation objects of some images become.

    Args:
        used: the names of the objects, in order.
        data: their bytes.
        refused: objects that cannot be used.
    """

    mask: Mask | None = None
    used: tuple[str, ...] = ()
    data: tuple[bytes, ...] = ()
    refused: tuple[Quarantined, ...] = ()


def masked_by(files: Files, objects: Sequence[str], read: Callable[[bytes], Mask]) -> Masked:
    """Return the mask of some annotation objects; one that cannot be used is left out and reported."""
    good: dict[str, Mask] = {}
    data: dict[str, bytes] = {}
    refused: list[Quarantined] = []
    for name in objects:
        try:
            data[name] = bytes(files.read(name))
            good[name] = read(data[name])
        except UnreadableImage as problem:
            refused.append(Quarantined(name, problem.reason, problem.detail))
    try:
        mask = joined(good) if good else None
    except UnreadableImage as problem:
        return Masked(refused=(*refused, *(Quarantined(name, problem.reason, problem.detail) for name in good)))
    return Masked(mask, tuple(good), tuple(data[name] for name in good), tuple(refused))


def joined(masks: Mapping[str, Mask]) -> Mask:
    """Return one mask of several objects; raises UnreadableImage if two of them have a structure of the same name."""
    every = list(masks.values())
    names = [name for mask in every for name in mask.names]
    if len(set(names)) != len(names):
        raise UnreadableImage("several-masks", "two annotation objects have a structure of the same name; keep one")
    if len(every) == 1:
        return every[0]
    parts = []
    for mask in every:
        for number, name in enumerate(mask.names, start=1):
            several = mask.values.ndim > mask.dimensions
            marked = mask.values[number - 1] > 0 if several else mask.values == number
            parts.append((marked.astype(np.uint8), Structures({name: (1,)}), mask.outside))
    return replace(combined(parts, chosen=False), dimensions=every[0].dimensions)


def digest_with(image: str, masks: Iterable[bytes]) -> str:
    """Return the hash of an image's hash and its annotation objects; the image's own without any."""
    own = [hashlib.sha256(data).hexdigest() for data in masks]
    return hashlib.sha256("".join([image, *own]).encode()).hexdigest() if own else image
