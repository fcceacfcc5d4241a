"""A codebook of local image features: k centres of descriptors by Lloyd's algorithm, from sums over all sites.

    centres (public) ──> every site: descriptors of its images, each added to the nearest centre's sum ──> new centres

As `kmeans`, with descriptors as points. An image adds the means over its descriptors, so that its row has a bounded norm
whatever their number. Numbers are whole multiples of 2^-24, so sums in any order, and over any division, are the same.

Without noise, the limit that `kmeans` states holds here, too.
"""

import functools
import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from salus.common.errors import JobError
from salus.common.features import extractor_of
from salus.common.features.base import DescriptorSettings, Floats, described, pictures_of
from salus.common.features.codebook import MOST_WORDS, codebook_to_text, nearest
from salus.common.job import Job
from salus.common.registry import Registry, settings_of
from salus.common.sums.base import Block, Float64Vector, Measured, Patients, Totals
from salus.common.sums.images import check_images
from salus.common.sums.kmeans import NOISE_FLOOR, sum_of_clusters

GRAIN = 2.0**24
DRAWN = 40  # pictures of noise whose descriptors are the first centres
ASIDE = 0.02  # how far a centre without points is placed from that of a large cluster, per number
Centres = npt.NDArray[np.float64]


class CodebookSettings(DescriptorSettings):
    """Settings of `codebook`.

    Args:
        words: Number of centres.
    """

    plugins: ClassVar[dict[str, str | Registry]] = dict(DescriptorSettings.plugins)

    words: Annotated[int, Field(ge=2, le=MOST_WORDS)] = 64


class Codebook:
    """Lloyd's algorithm on the local features of images, one step for each round of the job."""

    Settings = CodebookSettings
    ranged = True

    def __init__(self, job: Job) -> None:
        assert job.statistics is not None  # Safe because `sums_of` has looked.
        check_images(job)
        if job.task.columns:
            raise JobError("Expected no task.columns for a codebook, which reads images.", remedy="Remove them.")
        self.steps, self._seed = job.job.rounds, job.job.seed
        self._own = settings_of(job.statistics, CodebookSettings)
        self._extractor = extractor_of(self._own)
        self._low, self._high = job.statistics.intensity_low, job.statistics.intensity_high
        self._words, self._size = self._own.words, self._extractor.size

    def state_size(self, step: int) -> int:
        return 0 if step == 1 else self._words * self._size

    def blocks(self, step: int) -> Sequence[Block]:
        return [Block(1 + self._size, "whole")] * self._words

    def reach(self, step: int) -> float:
        return math.sqrt(2.0)  # a mean of vectors (1, descriptor), each of norm at most sqrt(1 + 1)

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        """Return for each centre the share of the image's descriptors nearest to it, and their sum by their number."""
        found = self._descriptors(image)
        return None if found is None else self._row(self._centres(state), found)

    def _row(self, centres: Centres, found: Floats) -> Float64Vector:
        row = np.zeros((self._words, 1 + self._size))
        points = np.concatenate([np.ones((len(found), 1)), found.astype(np.float64)], axis=1)
        np.add.at(row, nearest(found, centres), points)
        return np.asarray(
            np.trunc(row.reshape(-1) / len(found) * GRAIN) / GRAIN
        )  # towards zero: the norm does not grow

    def _descriptors(self, image: Measured) -> Floats | None:
        pictures = pictures_of(image.intensities, self._low, self._high, self._own.picture_side, image.padding)
        _, found = described(self._extractor, pictures, self._own.most_keypoints)
        return found if len(found) else None

    def measure(self, step: int, state: Sequence[float], patients: Patients, least: int) -> Float64Vector:
        """Return the sums; clusters in which too few patients of the site are left out as a whole."""
        return sum_of_clusters(lambda image: self.row(step, state, image), self._words, 1 + self._size, patients, least)

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        """Return the centres; after the last step their shares of the descriptors follow."""
        centres, cells = self._centres(state).copy(), totals.cells.reshape(self._words, 1 + self._size)
        counts = cells[:, 0].copy()
        full = counts > max(1e-6, NOISE_FLOOR * totals.noise_sd)
        means = cells[full, 1:] / counts[full, None]
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1.0)
        centres[full] = np.clip(means, self._extractor.low, 1.0)
        draws = np.random.default_rng((self._seed, step)).uniform(-ASIDE, ASIDE, centres.shape)
        after = counts.tolist() if step == self.steps else []
        for empty in np.flatnonzero(~full):  # beside the largest cluster, which then counts as half as large
            largest = int(np.where(full, counts, -np.inf).argmax()) if full.any() else int(empty)
            centres[empty] = np.clip(centres[largest] + draws[empty], self._extractor.low, 1.0)
            counts[largest] /= 2
        return [*(float(value) for value in centres.reshape(-1)), *(float(count) for count in after)]

    def model(self, state: Sequence[float]) -> dict[str, Any]:
        """Return the centres, and the text of them that a job has, rounded to 256 levels."""
        centres = self._centres(state)
        return {
            "kind": "codebook",
            "extractor": self._own.extractor,
            "centres": centres.tolist(),
            "codebook": codebook_to_text(centres, self._extractor.low),
        }

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        weight = max(totals.weight, 1.0)
        shares = [float(value) / weight for value in state[self._words * self._size :]]
        found = {"patients": totals.patients, "images": totals.images, "noise_sd": totals.noise_sd}
        return {**found, **self.model(state), "shares": shares}

    def _centres(self, state: Sequence[float]) -> Centres:
        count = self._words * self._size
        if len(state) >= count:
            return np.asarray(state[:count], dtype=np.float64).reshape(self._words, self._size)
        return self._first

    @functools.cached_property
    def _first(self) -> Centres:
        """The first centres: descriptors of drawn pictures, chosen far from each other, so that they depend on no data."""
        rng, parts = np.random.default_rng(self._seed), []
        for _ in range(DRAWN):
            noise = smooth_noise(rng, self._own.picture_side)
            parts.append(self._extractor(noise, self._own.most_keypoints)[1].astype(np.float64))
        found = np.concatenate(
            [*parts, rng.uniform(self._extractor.low, 1.0, (self._words, self._size)) / self._size**0.5]
        )
        chosen = [found.mean(axis=0)]
        distances = ((found - chosen[0]) ** 2).sum(axis=1)
        while len(chosen) < self._words:
            chances = np.cumsum(distances)
            chosen.append(found[min(int(np.searchsorted(chances, rng.random() * chances[-1])), len(found) - 1)])
            distances = np.minimum(distances, ((found - chosen[-1]) ** 2).sum(axis=1))
        return np.asarray(np.clip(np.stack(chosen), self._extractor.low, 1.0))


def smooth_noise(rng: np.random.Generator, side: int) -> npt.NDArray[np.uint8]:
    """Return a picture of noise at several scales, as textures are: the power falls with the square of the frequency."""
    frequencies = np.fft.fftfreq(side)
    length = np.sqrt(frequencies[:, None] ** 2 + frequencies**2)
    spectrum = np.fft.fft2(rng.standard_normal((side, side))) / np.maximum(length, 1 / side)
    values = np.fft.ifft2(spectrum).real
    return np.asarray(
        np.clip((values - values.mean()) / max(float(values.std()), 1e-12) * 50 + 128, 0, 255).astype(np.uint8)
    )
