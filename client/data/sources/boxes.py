"""From the boxes in a file to the annotation of an image; boxes that cannot be used are counted by reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from salus.client.data.targets import MAX_NAMES, Target
from salus.common.errors import UnreadableImage

BOXES = "boxes"
MAX_BOXES_OF_IMAGE = 20_000
REASONS = {
    "degenerate-box": "a box without height or width",
    "box-outside": "a box beside the image",
    "bad-box": "a box whose corners are not finite numbers",
    "crowd-box": "a box around a crowd, not around one object",
}


@dataclass(frozen=True)
class RawBox:
    """A box as its file has it, in pixels (row, column); pixel 0 covers 0 to 1.

    Args:
        shrunk: what the format's way of counting has added to each side, and a box without extent does not have.
        crowd: marks several objects at once.
        outlines: polygons around the object, each ``[points, 2]`` (row, column); none if the file has boxes only.
    """

    name: str
    low: tuple[float, float]
    high: tuple[float, float]
    shrunk: float = 0.0
    crowd: bool = False
    outlines: tuple[npt.NDArray[np.float64], ...] = ()

    def problem(self, rows: int, columns: int) -> str:
        """Return why the box cannot be used, empty if it can."""
        corners = (*self.low, *self.high)
        if not np.isfinite(corners).all():
            return "bad-box"
        if any(high - low <= self.shrunk for low, high in zip(self.low, self.high, strict=True)):
            return "degenerate-box"
        if self.low[0] >= rows or self.low[1] >= columns or self.high[0] <= 0 or self.high[1] <= 0:
            return "box-outside"
        return "crowd-box" if self.crowd else ""


@dataclass(frozen=True)
class Boxes:
    """The boxes of one image.

    Args:
        size: rows and columns of the image as the file says, or None.
        names: of all classes of the data set; empty if only this image's are known.
        outlined: whether the data set has outlines of objects.
    """

    boxes: tuple[RawBox, ...]
    size: tuple[int, int] | None
    names: tuple[str, ...] = ()
    outlined: bool = False


@dataclass(frozen=True)
class UsedBoxes:
    """The usable boxes of one image.

    Args:
        values: ``[boxes, 5]``: row and column of the low corner, of the high one, class number.
        dropped: reasons of the boxes that cannot be used, with their place in the file.
        kept: the boxes that are used, with their class numbers.
    """

    values: npt.NDArray[np.float32]
    names: tuple[str, ...]
    dropped: tuple[tuple[int, str], ...]
    kept: tuple[tuple[int, RawBox], ...] = ()

    @property
    def target(self) -> Target:
        """What the catalogue keeps about them."""
        counts = np.bincount(self.values[:, -1].astype(np.int64), minlength=len(self.names) + 1)[1:]
        return Target("boxes", {name: float(count) for name, count in zip(self.names, counts, strict=True)})


def used(found: Boxes, rows: int, columns: int, wanted: Sequence[str]) -> UsedBoxes:
    """Return the boxes of an image, cut off at its edges.

    Args:
        wanted: names of the classes to use, in this order; empty for all.

    Raises:
        UnreadableImage: ``boxes-mismatch``, boxes of an image of another size; ``too-large``, too many boxes or classes.
    """
    if found.size is not None and found.size != (rows, columns):
        raise UnreadableImage("boxes-mismatch", "the boxes belong to an image of another size")
    if len(found.boxes) > MAX_BOXES_OF_IMAGE:
        raise UnreadableImage("too-large", f"more than {MAX_BOXES_OF_IMAGE} boxes")
    names = tuple(wanted) or found.names or tuple(sorted({box.name for box in found.boxes}))
    if len(names) > MAX_NAMES:
        raise UnreadableImage("too-large", f"more than {MAX_NAMES} classes of boxes")
    numbers = {name: number for number, name in enumerate(names, start=1)}
    kept: list[list[float]] = []
    boxes: list[tuple[int, RawBox]] = []
    dropped: list[tuple[int, str]] = []
    for place, box in enumerate(found.boxes):
        problem = box.problem(rows, columns)
        if problem:
            dropped.append((place, problem))
        elif box.name in numbers:
            low = [max(value, 0.0) for value in box.low]
            high = [min(value, side) for value, side in zip(box.high, (rows, columns), strict=True)]
            kept.append([*low, *high, numbers[box.name]])
            boxes.append((numbers[box.name], box))
    values: Any = np.array(kept, np.float32).reshape(-1, 5)
    return UsedBoxes(values, names, tuple(dropped), tuple(boxes))
