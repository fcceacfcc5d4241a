"""The interface of an analysis: local numbers that add up over sites, and what the sums mean.

    state (public) ──> every site: rows of its images, added ──> protected sum ──> fold: the next state, or the result

Two ways of adding, of which a job takes one:

    exact    each image's row counts; a cell in which fewer than `least` patients of a site have a part is left at zero
    noised   each patient's row is the mean of its images' rows, of bounded norm, and noise is added to the sum
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Float64Vector = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Measured:
    """One image or table row as an analysis sees it, at its site.

    Args:
        label: class number of the job, or None for any other label.
        intensities: ``[channels, *spatial]`` in the modality's units, brighter is larger; empty for a table row.
        spacing_mm: between rows, columns and slices as far as the source knows them, slowest axis first.
        modality, vendor: of the fixed lists of `vocabulary`, or ``OTHER``.
        columns: of a table row, by name; NaN where missing.
    """

    label: int | None
    intensities: FloatArray
    spacing_mm: tuple[float, ...] = ()
    modality: str = "OTHER"
    vendor: str = "OTHER"
    columns: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Totals:
    """What a protected sum says.

    Args:
        patients, images: that took part; of images only where the job has no noise, else as far as noise lets it be known.
        weight: over how many rows the cells are sums: images, or patients in a job with noise.
        cells: the sums, float64.
        noise_sd: standard deviation of the noise in every cell; 0 without noise.
    """

    patients: float
    images: float
    weight: float
    cells: Float64Vector
    noise_sd: float = 0.0


class Analysis(Protocol):
    """What is measured, in how many steps; built from a job.

    Guarantees that every implementation must keep:

    - the entries of `row` are in 0 .. 1 and its Euclidean norm is at most `reach`, whatever the image holds;
    - nothing but `measure` of a step leaves a site, inside a protected sum.
    """

    steps: int
    takes_noise: bool  # whether its numbers are sums of rows of bounded norm

    def state_size(self, step: int) -> int:
        """Return how many public numbers the sites get at this step, from 1."""

    def cells(self, step: int) -> int:
        """Return the length of a row."""

    def reach(self, step: int) -> float:
        """Return the largest Euclidean norm of a row."""

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        """Return an image's row, or None for an image that says nothing to this analysis."""

    def measure(
        self, step: int, state: Sequence[float], patients: Iterable[Sequence[Measured]], least: int
    ) -> Float64Vector:
        """Return a site's own numbers without noise, ``[patients, images, cells ...]``, before they are protected.

        Args:
            patients: the images of one patient after the other.
            least: fewest patients whose numbers may stand in a cell.
        """

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        """Return the public state after a step: of the last one, what `result` explains."""

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        """Return what was found, as plain JSON."""


def sum_of_rows(
    analysis: Analysis, step: int, state: Sequence[float], patients: Iterable[Sequence[Measured]], least: int
) -> Float64Vector:
    """Return ``[patients, images, cells ...]`` of one site; all zero where it has fewer than `least` patients."""
    total = np.zeros(analysis.cells(step))
    present = np.zeros(analysis.cells(step), dtype=np.int64)
    people = images = 0
    for mine in patients:
        rows = [row for row in (analysis.row(step, state, image) for image in mine) if row is not None]
        if not rows:
            continue
        added = np.sum(rows, axis=0)
        total += added
        present += added > 0
        people, images = people + 1, images + len(rows)
    if people < least:
        return np.zeros(2 + len(total))
    total[present < least] = 0.0
    return np.concatenate([[people, images], total])


def mean_row(analysis: Analysis, step: int, state: Sequence[float], mine: Sequence[Measured]) -> Float64Vector | None:
    """Return a patient's row, the mean of its images' rows, cut to `reach`; None where no image says anything."""
    rows = [row for row in (analysis.row(step, state, image) for image in mine) if row is not None]
    if not rows:
        return None
    mean: Float64Vector = np.nan_to_num(np.mean(rows, axis=0), nan=0.0, posinf=0.0, neginf=0.0)
    return mean * min(1.0, analysis.reach(step) / max(float(np.linalg.norm(mean)), 1e-300))


def norm_of(analysis: Analysis, step: int) -> float:
    """Return the largest norm of a patient's whole row under noise: one, a share of images, and the analysis' own."""
    return math.sqrt(2 + analysis.reach(step) ** 2)


def finite(intensities: FloatArray) -> bool:
    """Return whether an image can be measured; one with NaN or infinity counts as none."""
    return bool(np.isfinite(intensities).all())


def bins_of(values: npt.NDArray[np.floating[Any]], low: float, high: float, bins: int) -> Float64Vector:
    """Return the shares of values in `bins` equal bins, those outside in the first or last; empty arrays give zeros."""
    if values.size == 0 or high <= low:
        return np.zeros(bins)
    places = np.clip(np.floor((values.astype(np.float64) - low) / (high - low) * bins), 0, bins - 1).astype(np.int64)
    shares: Float64Vector = np.bincount(places.reshape(-1), minlength=bins) / values.size
    return shares
