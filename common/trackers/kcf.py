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
AROUND = 2  # sides of the box, in each direction, in which an object is looked for
GOOD_SIDE, MOST_ZOOM = 48, 4  # pixels; OpenCV's filter loses objects of ten pixels at once, and finds them enlarged
LEAST_ANSWER = 0.2  # of the filter; OpenCV's 0.5 gives up objects that are half hidden


class Kcf(Linking):
    """A track is where its picture correlates best."""

    Settings: ClassVar[type[Strict]] = TrackerSettings

    def foretold(self, track: Track, picture: FloatArray) -> FloatArray:
        """Return where the filter finds the object, or its last box."""
        return track.box if track.memory is None else track.memory.foretold(track.box, picture)

    def found(self, track: Track, picture: FloatArray) -> None:
        """Begin the filter anew at the box; without one if the box is too small or beyond the picture."""
        low = np.clip(np.floor(track.box[:2]), 0, None).astype(int)
        high = np.minimum(np.ceil(track.box[2:]).astype(int), picture.shape)
        track.memory = _Filter(low, high, picture) if (high - low).min() >= LEAST_SIDE else None


class _Filter:
    """A filter in the enlarged part of the pictures around a box."""

    def __init__(self, low: Any, high: Any, picture: FloatArray) -> None:
        self._cv2 = required("cv2", extra="tracking", what="The tracker kcf")
        size = high - low
        self._zoom = int(np.clip(GOOD_SIDE // size.max(), 1, MOST_ZOOM))
        self._low = np.clip(low - AROUND * size, 0, None)
        self._high = np.minimum(high + AROUND * size, picture.shape)
        parameters = self._cv2.TrackerKCF_Params()
        parameters.detect_thresh = LEAST_ANSWER
        self._filter = self._cv2.TrackerKCF_create(parameters)
        (top, left), (rows, columns) = (low - self._low) * self._zoom, size * self._zoom
        self._filter.init(self._part(picture), (int(left), int(top), int(columns), int(rows)))

    def foretold(self, box: FloatArray, picture: FloatArray) -> FloatArray:
        """Return where the filter finds its object in the next picture, else `box`."""
        known, (left, top, width, height) = self._filter.update(self._part(picture))
        corners = np.array([top, left, top + height, left + width], np.float64) / self._zoom
        return corners + np.tile(self._low, 2) if known else box

    def _part(self, picture: FloatArray) -> Any:
        """Return the part as OpenCV wants it, with three equal colours."""
        (top, left), (bottom, right) = self._low, self._high
        grey = (np.clip(picture[top:bottom, left:right], 0, 1) * (LONGEST - 1)).astype(np.uint8)
        large = self._cv2.resize(grey, None, fx=self._zoom, fy=self._zoom)
        return np.repeat(large[..., None], 3, axis=2)
