"""Landmarks of a standard intensity scale: the mean over all images of each image's percentiles, scaled to 0 .. 1.

Nyul and Udupa 1999 (Magn. Reson. Med. 42), Nyul, Udupa and Zhang 2000 (IEEE Trans. Med. Imaging 19). The scale is a
mean over images, so a sum over sites gives exactly the same result as pooled images.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from salus.common.job import Job
from salus.common.sums.base import Block, Float64Vector, FloatArray, Measured, Patients, Totals, finite, sum_of_rows
from salus.common.sums.images import check_images

PERCENTILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)


class Nyul:
    """Means of the percentiles between the first and the last, in one step."""

    steps = 1

    def __init__(self, job: Job) -> None:
        assert job.statistics is not None  # Safe because `sums_of` has looked.
        check_images(job)

    def state_size(self, step: int) -> int:
        return 0

    def blocks(self, step: int) -> Sequence[Block]:
        return [Block(len(PERCENTILES), "whole")]

    def reach(self, step: int) -> float:
        return math.sqrt(len(PERCENTILES) - 1)  # the first is 0, all are at most 1

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        own = percentiles_of(image.counted)
        return None if own is None else (own - own[0]) / (own[-1] - own[0])

    def measure(self, step: int, state: Sequence[float], patients: Patients, least: int) -> Float64Vector:
        return sum_of_rows(self, step, state, patients, least)

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        means = np.clip(totals.cells / max(totals.weight, 1.0), 0.0, 1.0)
        means[0], means[-1] = 0.0, 1.0
        return [float(value) for value in np.maximum.accumulate(means)]  # keeps the scale increasing despite noise

    def model(self, state: Sequence[float]) -> dict[str, Any]:
        return {}

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        found = {"patients": totals.patients, "images": totals.images, "noise_sd": totals.noise_sd}
        return {**found, "percentiles": list(PERCENTILES), "landmarks": list(state)}


def percentiles_of(intensities: FloatArray) -> Float64Vector | None:
    """Return an image's percentiles, or None for an image without contrast."""
    if intensities.size == 0 or not finite(intensities):
        return None
    own: Float64Vector = np.percentile(intensities.astype(np.float64), PERCENTILES)
    return own if own[-1] > own[0] else None


def to_standard_scale(
    intensities: FloatArray, landmarks: Sequence[float], padding: npt.NDArray[np.bool_] | None = None
) -> FloatArray:
    """Return the image on the standard scale, its first percentile at 0.25 and its last at 0.75; flat images give zeros.

    Linear between the landmarks and extrapolated beyond them by half the range at each end, then clipped: a small bright
    lesion may be brighter than 99 % of the pixels.

    Args:
        padding: which intensities do not count in the percentiles, though they are scaled with the others.
    """
    own = percentiles_of(intensities if padding is None else intensities[~padding])
    if own is None:
        return np.zeros_like(intensities)
    rising = np.concatenate([[True], np.diff(own) > 0])  # of equal percentiles, the first one counts
    places, marks = own[rising], np.asarray(landmarks, dtype=np.float64)[rising]
    reach = (places[-1] - places[0]) / 2
    half = (marks[-1] - marks[0]) / 2
    places = np.concatenate([[places[0] - reach], places, [places[-1] + reach]])
    marks = np.concatenate([[marks[0] - half], marks, [marks[-1] + half]])
    standard: FloatArray = np.clip(np.interp(intensities, places, marks) / 2 + 0.25, 0.0, 1.0).astype(np.float32)
    return standard
