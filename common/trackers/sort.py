"""Boxes foretold by a Kalman filter at constant speed (SORT: Bewley et al. 2016, arXiv 1602.00763), by filterpy.

The state is that of DeepSORT (Wojke et al. 2017, arXiv 1703.07402): centre, size and the speed of each, with errors that
grow with the size of the box.
"""

from typing import Any, ClassVar

import numpy as np

from salus.common.extras import required
from salus.common.strict import Strict
from salus.common.trackers.base import FloatArray, Linking, Track, TrackerSettings

PLACE_ERROR, SPEED_ERROR = 1 / 20, 1 / 80  # of the box's size in one frame
FIRST_SPEED = 0.25  # of the box's size in one frame, before anything is known


class Sort(Linking):
    """A track moves on at its speed while it is not found."""

    Settings: ClassVar[type[Strict]] = TrackerSettings

    def foretold(self, track: Track, picture: FloatArray) -> FloatArray:
        """Return the box of the filter's state after one more frame."""
        track.memory.predict()
        return _box(track.memory.x[:4, 0])

    def found(self, track: Track, picture: FloatArray) -> None:
        """Correct the filter, or begin one."""
        state = measured(track.box)
        if track.memory is None:
            track.memory = _filter(state)
        else:
            track.memory.update(state)


def measured(boxes: FloatArray) -> FloatArray:
    """Return centre and size of boxes ``[..., 4]``."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=-1)


def _box(state: FloatArray) -> FloatArray:
    half = np.clip(state[2:], 1.0, None) / 2
    return np.concatenate([state[:2] - half, state[:2] + half])


def _filter(state: FloatArray) -> Any:
    kalman = required("filterpy.kalman", extra="tracking", what="The trackers sort and deepsort").KalmanFilter(8, 4)
    size = max(float(state[2:].mean()), 1.0)
    kalman.F = np.eye(8) + np.eye(8, k=4)
    kalman.H = np.eye(4, 8)
    kalman.x = np.concatenate([state, np.zeros(4)])[:, None]
    place, speed = (PLACE_ERROR * size) ** 2, (SPEED_ERROR * size) ** 2
    kalman.R = np.eye(4) * place
    kalman.Q = np.diag([place / 4] * 4 + [speed] * 4)
    kalman.P = np.diag([place] * 4 + [(FIRST_SPEED * size) ** 2] * 2 + [speed] * 2)
    return kalman
