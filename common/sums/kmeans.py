"""A codebook of k centres by Lloyd's algorithm (Lloyd 1982, IEEE Trans. Inf. Theory 28(2)), from sums only.

    centres (public) ──> every site: its points, each added to the nearest centre's sum ──> new centres

The sums are those of all points in one place, so the result is the same. With noise it is the method of Blum et al. 2005
("Practical privacy: the SuLQ framework", PODS). A centre that nobody is nearest to moves beside the largest cluster.

Not proven here: without noise, a coordinator that moves one centre between two steps learns the difference of two sums; each is
over at least `min_patients` patients of a site, but the difference may be due to one. Noise prevents this.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from salus.common.job import Job
from salus.common.registry import settings_of
from salus.common.strict import Strict
from salus.common.sums.base import Block, Float64Vector, Measured, Patients, Totals, small_cells
from salus.common.sums.points import Points

CANDIDATES = 64  # random points for each centre, of which the most distant ones become the first centres
ASIDE = 0.02  # how far a centre without points is placed from the largest cluster's
NOISE_FLOOR = 4.0  # a cluster counts as empty below this many standard deviations of the noise


class KMeansSettings(Strict):
    """Settings of `kmeans`.

    Args:
        clusters: Number of centres.
    """

    clusters: Annotated[int, Field(ge=2, le=256)] = 8


class KMeans:
    """Lloyd's algorithm, one step for each round of the job, on columns of a table or on intensity features of images."""

    Settings = KMeansSettings
    ranged = True

    def __init__(self, job: Job) -> None:
        assert job.statistics is not None  # Safe because `sums_of` has looked.
        self.steps = job.job.rounds
        self._clusters = settings_of(job.statistics, KMeansSettings).clusters
        self._points, self._seed = Points(job), job.job.seed
        self._size = len(self._points.axes)

    @functools.cached_property
    def _first(self) -> npt.NDArray[np.float64]:
        return _first_centres(self._seed, self._clusters, self._size)

    def state_size(self, step: int) -> int:
        return 0 if step == 1 else self._clusters * self._size

    def blocks(self, step: int) -> Sequence[Block]:
        return [Block(1 + self._size, "whole")] * self._clusters

    def reach(self, step: int) -> float:
        return math.sqrt(1 + self._size)

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        """Return one and the point's coordinates, in 0 .. 1, in the cells of the nearest centre."""
        point = self._points.of(image)
        if point is None:
            return None
        place = (point + 1) / 2
        nearest = int(((self._centres(state) - place) ** 2).sum(axis=1).argmin())
        row = np.zeros((self._clusters, 1 + self._size))
        row[nearest] = np.concatenate([[1.0], place])
        return row.reshape(-1)

    def measure(self, step: int, state: Sequence[float], patients: Patients, least: int) -> Float64Vector:
        """Return the sums; clusters in which too few patients of the site are left out as a whole."""
        return sum_of_clusters(
            lambda image: self.row(step, state, image), self._clusters, 1 + self._size, patients, least
        )

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        """Return the centres; after the last step their numbers of points follow."""
        centres, cells = self._centres(state).copy(), totals.cells.reshape(self._clusters, 1 + self._size)
        counts = cells[:, 0]
        full = counts > max(0.5, NOISE_FLOOR * totals.noise_sd)
        centres[full] = np.clip(cells[full, 1:] / counts[full, None], 0.0, 1.0)
        draws = np.random.default_rng((self._seed, step)).uniform(-ASIDE, ASIDE, centres.shape)
        for empty in np.flatnonzero(~full):
            centres[empty] = np.clip(centres[int(counts.argmax())] + draws[empty], 0.0, 1.0)
        after = counts.tolist() if step == self.steps else []
        return [*(float(value) for value in centres.reshape(-1)), *(float(count) for count in after)]

    def model(self, state: Sequence[float]) -> dict[str, Any]:
        """Return the centres in the columns' units."""
        centres = self._centres(state) * 2 - 1
        return {
            "kind": "kmeans",
            "columns": [axis.name for axis in self._points.axes],
            "centres": [
                [axis.centre + axis.unit * float(value) for axis, value in zip(self._points.axes, centre, strict=True)]
                for centre in centres
            ],
            "units": [axis.unit for axis in self._points.axes],
        }

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        sizes = [float(value) for value in state[self._clusters * self._size :]]
        found = {"patients": totals.patients, "images": totals.images, "noise_sd": totals.noise_sd}
        return {**found, **self.model(state), "sizes": sizes}

    def _centres(self, state: Sequence[float]) -> npt.NDArray[np.float64]:
        """Return the centres ``[clusters, axes]`` in 0 .. 1; before the first step, points far from each other."""
        count = self._clusters * self._size
        if len(state) >= count:
            return np.asarray(state[:count], dtype=np.float64).reshape(self._clusters, self._size)
        return self._first


def sum_of_clusters(
    row: Callable[[Measured], Float64Vector | None], clusters: int, cells: int, patients: Patients, least: int
) -> Float64Vector:
    """Return ``[patients, images, cells ...]`` of one site without the clusters in which too few of its patients are.

    Args:
        row: of an image, ``clusters`` times ``cells`` numbers, of which the first is how much of it is in the cluster.
    """
    total, images, present = np.zeros((clusters, cells)), 0, []
    for mine in patients:
        rows = [found for found in (row(image) for image in mine) if found is not None]
        if rows:
            own = np.sum(rows, axis=0).reshape(total.shape)
            total, images = total + own, images + len(rows)
            present.append(own[:, 0] > 0)
    if len(present) < least:
        return np.zeros(2 + total.size)
    if present:
        total[small_cells(np.stack(present), least)] = 0.0
    return np.concatenate([[len(present), images], total.reshape(-1)])


def _first_centres(seed: int, clusters: int, size: int) -> npt.NDArray[np.float64]:
    """Return centres that depend on no data: each is the candidate that is most distant from those before it."""
    candidates = np.random.default_rng(seed).uniform(0.25, 0.75, (CANDIDATES * clusters, size))
    chosen = [np.full(size, 0.5)]
    distances = ((candidates - chosen[0]) ** 2).sum(axis=1)
    while len(chosen) < clusters:
        chosen.append(candidates[int(distances.argmax())])
        distances = np.minimum(distances, ((candidates - chosen[-1]) ** 2).sum(axis=1))
    return np.stack(chosen)
