"""Boxes foretold by a kernelised correlation filter (KCF: Henriques et al. 2015, arXiv 1404.7584), by OpenCV.

The filter looks for what it last saw of an object near its last place; it begins anew wherever the object is found again, so
it only bridges the frames in which it is not.
"""

from typing import Any, ClassVar

import numpy as np

from salus.common.extras import required
from salus.common.strict import Strict
from salus.common.trackers.base import FloatArray, Linking, Track, TrackerSettings

LEAST_SIDE = 4  # pixels; OpenCV fails on smaller boxes
LONGEST = 256  # grey values


class Kcf(Linking):
    """A track is where its picture correlates best."""

    Settings: ClassVar[type[Strict]] = TrackerSettings

    def foretold(self, track: Track, picture: FloatArray) -> FloatArray:
        """Return where the filter finds the object, or its last box."""
        if track.memory is None:
            return track.box
        known, box = track.memory.update(_colours(picture))
        left, top, width, height = box
        return np.array([top, left, top + height, left + width], np.float64) if known else track.box

    def found(self, track: Track, picture: FloatArray) -> None:
        """Begin the filter anew at the box; without one if the box is too small or beyond the picture."""
        low = np.clip(np.floor(track.box[:2]), 0, None).astype(int)
        high = np.minimum(np.ceil(track.box[2:]).astype(int), picture.shape)
        track.memory = None
        if (high - low).min() >= LEAST_SIDE:
            track.memory = _filter()
            rows, columns = (high - low).tolist()
            track.memory.init(_colours(picture), (int(low[1]), int(low[0]), columns, rows))


def _filter() -> Any:
    return required("cv2", extra="tracking", what="The tracker kcf").TrackerKCF_create()


def _colours(picture: FloatArray) -> Any:
    """Return the picture as OpenCV wants it, with three equal colours."""
    grey = (np.clip(picture, 0, 1) * (LONGEST - 1)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
