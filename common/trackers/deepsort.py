"""Motion and appearance together, as in DeepSORT (Wojke et al. 2017, arXiv 1703.07402).

The appearance of an object is the histogram of the grey values in the middle of its box, and not a network's embedding: it
needs no training data of identities, and is the same at every site. A pair's cost is the cosine distance to the nearest
appearance that the track had, and pairs are allowed by the Mahalanobis distance to the foretold box only. What this leaves of
boxes, and of tracks that were found in the frame before, is paired by overlap: an object that is half hidden changes its
box and its look at once.
"""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field as Limits

from salus.common.strict import Strict
from salus.common.trackers.base import FORBIDDEN, FloatArray, Track, TrackerSettings, overlap_of
from salus.common.trackers.sort import Sort, measured

GATE = 9.4877  # 95 % quantile of the chi-square distribution with 4 degrees of freedom
SECOND = 10.0  # cost of a pair by overlap: far above any pair that is allowed by motion
BINS = 16
MIDDLE = 0.25  # of each side that is left out: near the border a box shows other things


class DeepSortSettings(TrackerSettings):
    """Settings of DeepSORT.

    Args:
        appearance_weight: Share of the appearance in the cost of a pair; the rest is the distance to the foretold box.
        most_appearances: Appearances that are kept of a track.
    """

    appearance_weight: Annotated[float, Limits(ge=0, le=1)] = 0.5  # cells may look alike
    most_appearances: Annotated[int, Limits(ge=1, le=1000)] = 30  # a second of a clip


class DeepSort(Sort):
    """A track is known by where it should be and by how it looked."""

    Settings: ClassVar[type[Strict]] = DeepSortSettings

    def found(self, track: Track, picture: FloatArray) -> None:
        """Correct the filter, and remember the appearance."""
        super().found(track, picture)
        track.looks = [*track.looks, look(picture, track.box)][-self._own.most_appearances :]

    def costs(self, picture: FloatArray, boxes: FloatArray) -> FloatArray:
        """Return the weighted distances in appearance and place."""
        looks = np.stack([look(picture, box) for box in boxes])
        weight = self._own.appearance_weight
        costs = np.full((len(self.tracks), len(boxes)), FORBIDDEN)
        for row, track in enumerate(self.tracks):
            apart = measured(boxes) - track.memory.x[:4, 0]
            spread = track.memory.P[:4, :4] + track.memory.R
            away = np.einsum("bi,ij,bj->b", apart, np.linalg.inv(spread), apart) / GATE
            unlike = 1.0 - (looks @ np.stack(track.looks).T).max(axis=1)
            costs[row] = np.where(away <= 1.0, weight * unlike + (1 - weight) * away, FORBIDDEN)
            if track.missed == 0:
                overlap = overlap_of(track.box[None], boxes)[0]
                rest = (away > 1.0) & (overlap >= max(self.settings.least_overlap, 1e-9))
                costs[row] = np.where(rest, SECOND - overlap, costs[row])
        return costs

    @property
    def _own(self) -> DeepSortSettings:
        assert isinstance(self.settings, DeepSortSettings)  # Safe because it is built with its own kind.
        return self.settings


def look(picture: FloatArray, box: FloatArray) -> FloatArray:
    """Return the histogram of grey values in the middle of a box, of Euclidean norm 1."""
    margin = MIDDLE * (box[2:] - box[:2])
    low = np.floor(np.clip(box[:2] + margin, 0, np.array(picture.shape) - 1)).astype(int)
    high = np.maximum(np.ceil(box[2:] - margin).astype(int), low + 1)
    values = picture[low[0] : high[0], low[1] : high[1]]
    counts = np.histogram(np.clip(values, 0, 1), BINS, (0.0, 1.0))[0].astype(np.float64)
    counts = np.convolve(counts, (0.25, 0.5, 0.25), "same")  # a value near a bin's edge is near both
    return np.asarray(counts / max(float(np.linalg.norm(counts)), 1e-12))
