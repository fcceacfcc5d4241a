"""Outlines of objects in an image: as polygons, and filled as a mask.

A pixel belongs to an object if its centre lies inside an odd number of the object's polygons. Where objects of
different classes overlap, the mask has a channel for each class.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from salus.client.data.dicom.contours import filled
from salus.client.data.records import Sample
from salus.client.data.sources.boxes import RawBox, UsedBoxes
from salus.client.data.structures import Mask
from salus.client.data.targets import Target
from salus.common.declaration import TargetKind
from salus.common.errors import UnreadableImage

MAX_POINTS = 500_000  # of one image
MAX_MASK_VALUES = 2**28
CENTRE = 0.5  # of a pixel, in coordinates in which pixel 0 covers 0 to 1
Array = npt.NDArray[Any]


def contours_of(boxes: Sequence[tuple[int, RawBox]], names: Sequence[str]) -> tuple[Array, Target]:
    """Return all polygons ``[points, 4]``: number of the polygon, class number, row, column; and what the catalogue keeps.

    Args:
        boxes: class numbers and objects.

    Raises:
        UnreadableImage: ``too-large`` or ``not-finite``.
    """
    parts: list[Array] = []
    counts = dict.fromkeys(names, 0.0)
    total = 0
    for number, box in boxes:
        for line in box.outlines:
            total += len(line)
            if total > MAX_POINTS:
                raise UnreadableImage("too-large", f"outlines of more than {MAX_POINTS} points")
            if not np.isfinite(line).all():
                raise UnreadableImage("not-finite", "an outline with coordinates that are not finite")
            head = np.tile([[len(parts), number]], (len(line), 1))
            parts.append(np.concatenate([head, line], axis=1))
            counts[names[number - 1]] += 1.0
    values = np.concatenate(parts) if parts else np.zeros((0, 4))
    return values.astype(np.float32), Target("contours", counts)


def mask_of(boxes: Sequence[tuple[int, RawBox]], names: Sequence[str], rows: int, columns: int) -> Mask:
    """Return the filled outlines of an image; errors as in `contours_of`."""
    numbers = np.zeros((rows, columns), np.uint8 if len(names) < 256 else np.int16)
    channels: Array | None = None
    for number, box in boxes:
        inside = np.zeros((rows, columns), bool)
        for line in box.outlines:
            inside ^= filled(line - CENTRE, rows, columns)
        taken = numbers[inside]
        if channels is None and ((taken != 0) & (taken != number)).any():
            if rows * columns * len(names) > MAX_MASK_VALUES:
                raise UnreadableImage(
                    "too-large", "overlapping classes in a large image; choose some with --structures"
                )
            channels = np.stack([numbers == one for one in range(1, len(names) + 1)]).astype(np.uint8)
        if channels is not None:
            channels[number - 1] |= inside.astype(np.uint8)
        else:
            numbers[inside] = number
    return Mask(numbers if channels is None else channels, tuple(names), 0.0, dimensions=2)


class Annotated:
    """The boxes of an image, and where the data set has outlines also these and the mask that they enclose.

    Args:
        shape: rows and columns of the image.
    """

    def __init__(self, boxes: UsedBoxes, outlined: bool, shape: Sequence[int]) -> None:
        self._arrays: dict[str, Array] = {"boxes": boxes.values}
        self._names = boxes.names
        self.targets: dict[str, Target] = {"boxes": boxes.target}
        if outlined:
            lines, contours = contours_of(boxes.kept, boxes.names)
            mask = mask_of(boxes.kept, boxes.names, shape[0], shape[1])
            self._arrays |= {"contours": lines, "mask": mask.values}
            self.targets |= {"contours": contours, "mask": mask.target(1.0)}

    def on(self, sample: Sample) -> Sample:
        """Return a sample with these annotations."""
        kinds: dict[str, TargetKind] = {name: target.kind for name, target in self.targets.items()}
        names = dict.fromkeys(self._arrays, self._names) if self._names else {}
        return replace(sample, targets=self._arrays, kinds=kinds, names=names)
