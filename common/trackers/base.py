"""What trackers share: tracks, assignment, and the birth and end of a track.

In each frame every track foretells its box, the foretold boxes are assigned to the found ones at the least total cost
(Kuhn 1955), a found box without a track begins one, and a track that stays without a box for too long ends.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field as Limits
from scipy.optimize import linear_sum_assignment

from salus.common.strict import Strict

FloatArray = npt.NDArray[np.float64]
MOST_TRACKS = 4096  # of a clip at one time, so that costs of pairs stay below 64 MB
FORBIDDEN = 1e6  # cost of a pair that may not be matched


class TrackerSettings(Strict):
    """Settings of every tracker.

    Args:
        most_missed: Frames that a track survives without a box.
        least_overlap: Smallest intersection over union of a track's foretold box and a found one.
    """

    most_missed: Annotated[int, Limits(ge=0, le=1000)] = 10  # an occlusion of a third of a second at 30 frames a second
    least_overlap: Annotated[float, Limits(ge=0, le=1)] = 0.1  # foretold boxes are rough after an occlusion


@dataclass
class Track:
    """One object over time.

    Args:
        number: from 1, never used again within a clip.
        box: ``[4]``, low and high corner (row, column), in the last frame in which it was found or foretold.
        missed: frames since it was found.
        memory: what the tracker keeps about its motion.
        looks: how it looked, oldest first.
    """

    number: int
    box: FloatArray
    missed: int = 0
    memory: Any = None
    looks: list[FloatArray] = field(default_factory=list)


class Tracker(Protocol):
    """Links the boxes of one clip; built anew for each clip as ``Kind(settings)``."""

    Settings: ClassVar[type[Strict]]

    def update(self, picture: FloatArray, boxes: FloatArray) -> list[tuple[int, FloatArray]]:
        """Return the tracks that are seen in the next frame, each with its number and box.

        Args:
            picture: the frame ``[rows, columns]``, 0 .. 1.
            boxes: that were found in it, ``[boxes, 4]``.
        """


@dataclass
class Linking:
    """A tracker; kinds change what a track foretells and what a pair costs."""

    settings: TrackerSettings
    tracks: list[Track] = field(default_factory=list)
    begun: int = 0

    def update(self, picture: FloatArray, boxes: FloatArray) -> list[tuple[int, FloatArray]]:
        """Return the tracks of the next frame, see `Tracker`."""
        for track in self.tracks:
            track.box = self.foretold(track, picture)
        costs = self.costs(picture, boxes) if self.tracks and len(boxes) else np.zeros((len(self.tracks), len(boxes)))
        rows, columns = linear_sum_assignment(costs)
        pairs = {int(c): int(r) for r, c in zip(rows, columns, strict=True) if costs[r, c] < FORBIDDEN}
        for track in self.tracks:
            track.missed += 1
        seen: list[tuple[int, FloatArray]] = []
        for place, box in enumerate(boxes):
            if place in pairs:
                track = self.tracks[pairs[place]]
                track.box, track.missed = box, 0
            else:
                self.begun += 1
                track = Track(self.begun, box)
                self.tracks.append(track)
            self.found(track, picture)
            seen.append((track.number, box))
        self.tracks = [track for track in self.tracks if track.missed <= self.settings.most_missed]
        if len(self.tracks) > MOST_TRACKS:  # a clip in which nothing matches; those missed longest go first
            self.tracks = sorted(self.tracks, key=lambda track: track.missed)[:MOST_TRACKS]
        return seen

    def foretold(self, track: Track, picture: FloatArray) -> FloatArray:
        """Return where a track's box should be in this frame."""
        return track.box

    def costs(self, picture: FloatArray, boxes: FloatArray) -> FloatArray:
        """Return the cost of every pair ``[tracks, boxes]``, `FORBIDDEN` for those that may not be matched."""
        overlap = overlap_of(np.stack([track.box for track in self.tracks]), boxes)
        return np.where(overlap >= max(self.settings.least_overlap, 1e-9), 1.0 - overlap, FORBIDDEN)

    def found(self, track: Track, picture: FloatArray) -> None:
        """Remember what is needed of a track that was just found at `track.box`."""


def overlap_of(one: FloatArray, other: FloatArray) -> FloatArray:
    """Return the intersection over union of boxes, ``[one, other]``."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (one, other)]
    either = areas[0][:, None] + areas[1][None] - common
    return np.asarray(np.divide(common, either, out=np.zeros_like(common), where=either > 0), np.float64)
