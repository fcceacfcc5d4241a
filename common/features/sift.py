"""SIFT: gradient histograms around scale-space extrema (Lowe 2004, IJCV 60(2)), as RootSIFT."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from salus.common.features.base import Floats, Picture, opencv, strongest


class Sift:
    """128 numbers at each extremum; small or smooth images have few, so prefer `dense-sift` for them."""

    size: ClassVar[int] = 128
    low: ClassVar[float] = 0.0

    def __init__(self, settings: Any) -> None:
        self._sift = opencv('The extractor "sift"').SIFT_create()

    def __call__(self, picture: Picture, most: int) -> tuple[Floats, Floats]:
        places, rows = strongest(self._sift, picture, most, self.size)
        return places, root(rows)


def root(rows: npt.NDArray[Any]) -> Floats:
    """Return the square roots of the shares of each descriptor's sum, of norm 1, or 0 for a flat place.

    Euclidean distances of these compare histograms better (Arandjelovic and Zisserman 2012, CVPR, "RootSIFT").
    """
    values = rows.astype(np.float64)
    shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1e-12)
    found: Floats = np.sqrt(shares).astype(np.float32)
    return found
