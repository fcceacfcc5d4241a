"""SIFT descriptors on a grid, upright and of given sizes: for small or smooth images, where detectors find few places.

After Bosch, Zisserman and Munoz 2007 (ICCV, "Image classification using random forests and ferns").
"""

import math
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from salus.common.features.base import Floats, Picture, opencv, with_places
from salus.common.features.sift import root
from salus.common.registry import settings_of
from salus.common.strict import Strict

WINDOW = 6.0  # pixels of OpenCV's 4 x 4 histograms for each pixel of a keypoint's size


class DenseSiftSettings(Strict):
    """Settings of `dense-sift`.

    Args:
        patch_sides: Pixels of the sides of the described squares, in the scaled picture.
    """

    patch_sides: Annotated[tuple[Annotated[int, Field(ge=8, le=256)], ...], Field(min_length=1, max_length=4)] = (
        24,
        48,
    )  # a fifth and two fifths of the default picture


class DenseSift:
    """128 numbers at each point of the finest regular grid that has at most as many points as are allowed."""

    Settings = DenseSiftSettings
    size: ClassVar[int] = 128
    low: ClassVar[float] = 0.0

    def __init__(self, settings: Any) -> None:
        self._cv2 = opencv('The extractor "dense-sift"')
        self._sift = self._cv2.SIFT_create()
        self._sides = settings_of(settings, DenseSiftSettings).patch_sides

    def __call__(self, picture: Picture, most: int) -> tuple[Floats, Floats]:
        each = max(1, most // len(self._sides))
        points = [
            self._cv2.KeyPoint(float(x), float(y), side / WINDOW, 0.0)
            for side in self._sides
            for y, x in grid(picture.shape[0], picture.shape[1], each)
        ]
        kept, rows = self._sift.compute(picture, points[:most])
        places, rows = with_places(picture, kept, rows, self.size)
        return places, root(rows)


def grid(height: int, width: int, most: int) -> list[tuple[float, float]]:
    """Return the centres (y, x) of equal cells, about square and at most `most`, that divide a picture."""
    rows = max(1, min(most, height, math.floor(math.sqrt(most * height / width))))
    columns = max(1, min(width, most // rows))
    ys, xs = ((np.arange(count) + 0.5) * side / count - 0.5 for count, side in ((rows, height), (columns, width)))
    return [(float(y), float(x)) for y in ys for x in xs]
