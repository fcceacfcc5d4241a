"""Everything that is computed from sums over all sites in a few public steps: statistics, and models that need no gradient.

    state (public) ──> every site: rows of its images, added ──> protected sum ──> fold: the next state, or result and model

A job adds in one of two ways:

    exact    each image's row counts; cells with fewer than `least` patients of a site are suppressed, see `Block`
    noised   each patient's row is the mean of its images' rows, of bounded norm, and noise is added to the sum
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from salus.common.outcomes import Outcome

Float64Vector = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Measured:
    """One image or table row at its site, as sums see it.

    Args:
        label: class number in the job, or None for any other label.
        intensities: ``[channels, *spatial]`` in the modality's units, brighter is larger; empty for a table row.
        spacing_mm: known spacings of slices, rows and columns, slowest axis first.
        modality, vendor: entries of the fixed lists in `vocabulary`, or ``OTHER``.
        columns: values of a table row by column name; NaN if missing.
        outcome: of a patient that was followed; None where the label says none.
        padding: which intensities are padding of the file and no measurement, shaped like them; None if none is.
    """

    label: int | None
    intensities: FloatArray
    spacing_mm: tuple[float, ...] = ()
    modality: str = "OTHER"
    vendor: str = "OTHER"
    columns: Mapping[str, float] = field(default_factory=dict)
    padding: npt.NDArray[np.bool_] | None = None
    outcome: Outcome | None = None

    @property
    def counted(self) -> FloatArray:
        """The intensities that were measured: all but the padding."""
        return self.intensities if self.padding is None else self.intensities[~self.padding]


@dataclass(frozen=True)
class Totals:
    """The result of a protected sum.

    Args:
        patients, images: numbers of patients and images; with noise, only estimates.
        weight: number of rows in the sums: images, or patients in a job with noise.
        cells: the sums, float64.
        noise_sd: standard deviation of the noise in every cell; 0 without noise.
    """

    patients: float
    images: float
    weight: float
    cells: Float64Vector
    noise_sd: float = 0.0


Patients = Iterable[Iterable[Measured]]


@dataclass(frozen=True)
class Block:
    """Cells of a row that belong together, and how small cells among them are suppressed.

    ordered   neighbouring cells are merged until they have enough patients, and share their total evenly
    named     the small cells are set to zero, together with others until the suppressed cells have enough patients
    whole     sums over every patient of the site; enough patients at the site suffice

    Args:
        family: each image is in exactly one ordered block of a family, so the blocks are suppressed together like named cells.
    """

    size: int
    kind: Literal["ordered", "named", "whole"]
    family: str = ""


class Sums(Protocol):
    """Sums over all sites in one or more steps, built from a job, and what they mean.

    Guarantees that every implementation must give:

    - the entries of `row` are in -1 .. 1 and its Euclidean norm is at most `reach`, for every image;
    - only the result of `measure` leaves a site, inside a protected sum.

    A class whose result is of no use if all grey values lie in one small part of the job's range says ``ranged = True``.
    """

    steps: int

    def state_size(self, step: int) -> int:
        """Return the number of public values that the sites receive at this step; steps count from 1."""

    def blocks(self, step: int) -> Sequence[Block]:
        """Return the blocks of cells that make up a row."""

    def reach(self, step: int) -> float:
        """Return the largest Euclidean norm of a row."""

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        """Return an image's row, or None for an image that is not used."""

    def measure(self, step: int, state: Sequence[float], patients: Patients, least: int) -> Float64Vector:
        """Return a site's own numbers without noise, ``[patients, images, cells ...]``, before they are protected.

        Args:
            patients: for each patient, its images.
            least: fewest patients in a cell that is not suppressed.
        """

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        """Return the public state after a step; `result` explains the state after the last one."""

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        """Return the result as plain JSON, for people and for the sections of other jobs."""

    def model(self, state: Sequence[float]) -> dict[str, Any]:
        """Return the model after the last step as plain JSON, which the coordinator signs; empty where the result is none."""


def cells_of(sums: Sums, step: int) -> int:
    """Return the length of a row."""
    return sum(block.size for block in sums.blocks(step))


def sum_of_rows(sums: Sums, step: int, state: Sequence[float], patients: Patients, least: int) -> Float64Vector:
    """Return ``[patients, images, cells ...]`` of one site with small cells suppressed; all zero if it has too few patients."""
    total = np.zeros(cells_of(sums, step))
    parts: list[npt.NDArray[np.bool_]] = []
    images = 0
    for mine in patients:
        part = np.zeros(len(total), dtype=np.bool_)
        before = images
        for image in mine:
            row = sums.row(step, state, image)
            if row is not None:
                total += row
                part |= row > 0
                images += 1
        if images > before:
            parts.append(part)
    if len(parts) < least:
        return np.zeros(2 + len(total))
    present = np.stack(parts) if parts else np.zeros((0, len(total)), dtype=np.bool_)
    return np.concatenate([[len(parts), images], hidden(sums.blocks(step), total, present, least)])


def hidden(blocks: Sequence[Block], cells: Float64Vector, present: npt.NDArray[np.bool_], least: int) -> Float64Vector:
    """Return a row's sums with small cells suppressed.

    Args:
        present: which patients (rows) contribute to which cell.

    Guarantees: every remaining number, and the total of the suppressed cells of a block or family, is of at least `least`
    patients or of none. There is no guarantee for the answers to two different questions together.
    """
    result, place = cells.copy(), 0
    families: dict[str, list[slice]] = {}
    for block in blocks:
        here = slice(place, place + block.size)
        place += block.size
        if block.kind == "named":
            result[here][small_cells(present[:, here], least)] = 0.0
        elif block.kind == "ordered":
            families.setdefault(block.family or str(place), []).append(here)
    for members in families.values():
        together = np.stack([present[:, here].any(axis=1) for here in members], axis=1)
        for here, small in zip(members, small_cells(together, least), strict=True):
            if small:
                result[here] = 0.0
                continue
            for group in neighbours(present[:, here], least):
                result[here][group] = cells[here][group].mean()
    return result


def small_cells(present: npt.NDArray[np.bool_], least: int) -> npt.NDArray[np.bool_]:
    """Return which cells to set to zero: the small ones, then the next smallest, until enough patients are in them.

    Args:
        present: which patients (rows) contribute to which cell.
    """
    counts = present.sum(axis=0)
    small: npt.NDArray[np.bool_] = (counts > 0) & (counts < least)
    while small.any() and present[:, small].any(axis=1).sum() < least:
        rest = np.where(~small & (counts > 0))[0]
        if not len(rest):
            break
        small[rest[np.argmin(counts[rest])]] = True
    return small


def too_few(groups: Iterable[Collection[object]], least: int) -> bool:
    """Return whether some group has fewer than `least` patients, but not none.

    Args:
        groups: those that each patient belongs to.
    """
    counts = Counter(group for mine in groups for group in set(mine))
    return any(count < least for count in counts.values())


def neighbours(present: npt.NDArray[np.bool_], least: int) -> list[slice]:
    """Return groups of neighbouring cells with enough patients or none; a small last group is merged with the one before.

    Args:
        present: which patients (rows) contribute to which cell.
    """
    groups: list[slice] = []
    start, size = 0, present.shape[1]
    people = np.zeros(len(present), dtype=np.bool_)
    for place in range(size):
        people = people | present[:, place]
        if not people.any() or people.sum() >= least:
            groups.append(slice(start, place + 1))
            start, people = place + 1, np.zeros(len(present), dtype=np.bool_)
    if start < size:
        while groups:
            before = groups.pop()
            start = before.start
            if present[:, before].any():
                break
        groups.append(slice(start, size))
    return groups


def mean_row(
    sums: Sums, step: int, state: Sequence[float], mine: Iterable[Measured]
) -> tuple[Float64Vector, int] | None:
    """Return the mean of a patient's image rows, clipped to norm `reach`, and the number of images; None without rows."""
    total, count = np.zeros(cells_of(sums, step)), 0
    for image in mine:
        row = sums.row(step, state, image)
        if row is not None:
            total, count = total + row, count + 1
    if not count:
        return None
    mean: Float64Vector = np.nan_to_num(total / count, nan=0.0, posinf=0.0, neginf=0.0)
    return mean * min(1.0, sums.reach(step) / max(float(np.linalg.norm(mean)), 1e-300)), count


def norm_of(sums: Sums, step: int) -> float:
    """Return the largest norm of a patient's whole row with noise: one, a share of images, and the row itself."""
    return math.sqrt(2 + sums.reach(step) ** 2)


def finite(intensities: FloatArray) -> bool:
    """Return whether an image can be measured; one with NaN or infinity cannot."""
    return bool(np.isfinite(intensities).all())


def bins_of(values: npt.NDArray[np.floating[Any]], low: float, high: float, bins: int) -> Float64Vector:
    """Return the shares of values in `bins` equal bins, those outside in the first or last.

    Values that are not finite are ignored; an empty range or array gives zeros. It never raises an error, because an error
    for one image would change the numbers of the whole site.
    """
    width = high - low
    known = values[np.isfinite(values)].astype(np.float64)
    if known.size == 0 or not (math.isfinite(width) and width > 0 and math.isfinite(low)):
        return np.zeros(bins)
    with np.errstate(all="ignore"):
        places = np.nan_to_num((known - low) / width * bins, nan=0.0, posinf=bins, neginf=0.0)
    whole = np.clip(np.floor(places), 0, bins - 1).astype(np.int64)
    shares: Float64Vector = np.bincount(whole.reshape(-1), minlength=bins) / values.size
    return shares
