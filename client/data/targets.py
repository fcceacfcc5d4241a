"""Annotations of an image: their kinds, their limits, and how a site checks those that its decoding child returns.

    mask       [*spatial] class numbers on the image's grid, 0 for background;
               [structures, *spatial] of 0 and 1 where structures may overlap
    boxes      [boxes, 2 * dimensions + 1]: low corner, high corner in pixels ((z,) y, x), class number
    contours   [points, 2 + dimensions]: number of the contour, class number, point in pixels ((z,) y, x)
    numbers    [numbers] to be predicted, NaN where missing
    row        [columns] to be given to the model beside the image, NaN where missing
    text       [bytes] of UTF-8
    series     [times, columns], NaN where missing

Class numbers begin at 1. Pixel 0 covers 0 to 1 in the coordinates of boxes and contours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from salus.common.declaration import MAX_STRUCTURES, TargetKind
from salus.common.errors import UnreadableImage

MAX_NAMES = MAX_STRUCTURES
MAX_NUMBER = 32767  # class numbers fit into int16
MAX_ENTRIES = 2**24  # numbers in one target that is not a mask
MASK_TYPES = ("uint8", "int16")
DTYPES: Mapping[TargetKind, tuple[str, ...]] = {
    "mask": MASK_TYPES,
    "boxes": ("float32",),
    "contours": ("float32",),
    "numbers": ("float32",),
    "row": ("float32",),
    "text": ("uint8",),
    "series": ("float32",),
}
SIDES: Mapping[TargetKind, int] = {"boxes": 2, "contours": 2, "numbers": 1, "row": 1, "text": 1, "series": 2}
MAY_MISS = ("numbers", "row", "series")
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Target:
    """What the catalogue keeps about one annotation of an image.

    Args:
        amounts: by structure the volume in millilitres (the number of pixels in a picture without spacing), the number of boxes
            or of contours; by column 1 where it has a value. 0 for a structure that the image does not show.
        outside: share of the annotated volume that lies outside the image, 0 .. 1.
    """

    kind: TargetKind
    amounts: dict[str, float] = field(default_factory=dict)
    outside: float = 0.0

    @property
    def empty(self) -> bool:
        """Whether nothing is annotated."""
        return not any(self.amounts.values())


def checked(kind: TargetKind, values: Array, image: Sequence[int], names: Sequence[str], name: str) -> Array:
    """Return a target if it has the form of its kind.

    Args:
        image: shape of the image's values, ``[channels, *spatial]``.
        names: of the class numbers or columns; empty where a number is its own name.
        name: of the target, for the message.

    Raises:
        UnreadableImage: ``bad-target``; another type, shape, class number, or a number that is not finite.
    """
    spatial = tuple(image[1:])
    largest = len(names) or MAX_NUMBER
    if values.dtype.name not in DTYPES[kind]:
        raise _bad(name)
    if kind == "mask":
        channels = values.ndim == len(spatial) + 1
        if values.shape[int(channels) :] != spatial or (channels and names and len(values) != len(names)):
            raise _bad(name)
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if low < 0 or high > (1 if channels else largest):
            raise _bad(name)
        return values
    if values.ndim != SIDES[kind] or values.size > MAX_ENTRIES:
        raise _bad(name)
    if kind != "text" and kind not in MAY_MISS and not np.isfinite(values).all():
        raise _bad(name)
    if kind in MAY_MISS and (np.isinf(values).any() or (names and values.shape[-1] != len(names))):
        raise _bad(name)
    if kind in ("boxes", "contours"):
        _check_points(kind, values, spatial, largest, name)
    return values


def _check_points(kind: TargetKind, values: Array, spatial: tuple[int, ...], largest: int, name: str) -> None:
    boxes = kind == "boxes"
    width = 2 * len(spatial) + 1 if boxes else 2 + len(spatial)
    if values.shape[1] != width:
        raise _bad(name)
    numbers = values[:, -1] if boxes else values[:, 1]
    if len(values) and not (numbers.min() >= 1 and numbers.max() <= largest and (numbers == np.round(numbers)).all()):
        raise _bad(name)
    if boxes and not (values[:, : len(spatial)] < values[:, len(spatial) : -1]).all():
        raise _bad(name)


def _bad(name: str) -> UnreadableImage:
    return UnreadableImage("bad-target", f"the annotation {name!r} does not have the form of its kind")
