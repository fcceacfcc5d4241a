"""AKAZE: extrema in a nonlinear scale space (Alcantarilla, Nuevo and Bartoli 2013, BMVC), with descriptors of 64 numbers.

The free counterpart of SURF: its descriptor (M-SURF) sums gradients in 4 x 4 cells in the same way.
"""

from typing import Any, ClassVar

import numpy as np

from salus.common.features.base import Floats, Picture, opencv, strongest

THRESHOLD = 1e-4  # of the response; OpenCV's 1e-3 finds few places in soft radiographs


class Akaze:
    """64 numbers at each extremum, upright."""

    size: ClassVar[int] = 64
    low: ClassVar[float] = -1.0

    def __init__(self, settings: Any) -> None:
        free = opencv('The extractor "akaze"').xfeatures2d
        self._akaze = free.AKAZE_create(descriptor_type=free.AKAZE_DESCRIPTOR_KAZE_UPRIGHT, threshold=THRESHOLD)

    def __call__(self, picture: Picture, most: int) -> tuple[Floats, Floats]:
        places, rows = strongest(self._akaze, picture, most, self.size)
        values = np.nan_to_num(rows.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        return places, (values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1.0)).astype(np.float32)
