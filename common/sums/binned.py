"""A row of a table as numbers of public intervals, from which trees of decisions are learned.

The edges depend on no patient: those of a numeric column are quantiles of a normal distribution with its ``centre`` and
``scale``, those of a categorical column lie midway between its values. All are exact in single precision, and so are values.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from salus.common.columns import columns_of
from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.sums.base import Float64Vector, Measured, Patients

IntArray = npt.NDArray[np.int64]
MOST_CELLS = 2**17  # of one step; five numbers each go through the protection, and memory follows
FIXED = 2.0**24  # numbers of a row are multiples of one by this, so that their sum is exact in any order


@dataclass(frozen=True)
class Rows:
    """The rows of a site's patients whose label is known.

    Args:
        bins: numbers of intervals, ``[rows, columns]``; the last number of a column means missing.
        labels: class numbers, ``[rows]``.
        owner: number of the row's patient, from 0, ``[rows]``.
        patients: number of patients.
    """

    bins: IntArray
    labels: IntArray
    owner: IntArray
    patients: int


class Bins:
    """Public intervals of the columns that a job reads.

    Args:
        intervals: largest number of intervals of a numeric column; a categorical one has as many as values.

    Raises:
        JobError: the job reads no columns.
    """

    def __init__(self, job: Job, intervals: int) -> None:
        self._columns = columns_of(job.task)
        if not self._columns:
            raise JobError(
                "Trees of decisions need columns, and this job has none.",
                remedy="List task.columns, or add a transform that makes columns of images, such as radiomics.",
            )
        shares = [k / intervals for k in range(1, intervals)]
        self.names = [column.name for column in self._columns]
        self.edges: list[Float64Vector] = []
        for column in self._columns:
            values = np.unique(np.array(column.values, dtype=np.float32)).astype(np.float64)
            cuts = [column.centre + column.scale * NormalDist().inv_cdf(share) for share in shares]
            edges = (values[1:] + values[:-1]) / 2 if column.values else np.array(cuts)
            self.edges.append(np.unique(edges.astype(np.float32)).astype(np.float64))
        self.missing = np.array([len(edges) + 1 for edges in self.edges])
        self.starts = np.concatenate([[0], np.cumsum(self.missing + 1)])

    @property
    def cells(self) -> int:
        """The number of intervals of all columns, with one more each for missing values."""
        return int(self.starts[-1])

    def values(self, image: Measured) -> Float64Vector:
        """Return the values ``[columns]`` rounded to single precision; NaN if missing or none of its column's values."""
        found = np.full(len(self._columns), np.nan)
        for place, column in enumerate(self._columns):
            value = image.columns.get(column.name, math.nan)
            if math.isfinite(value) and (not column.values or value in column.values):
                with np.errstate(over="ignore"):
                    found[place] = np.float32(value)
        found[~np.isfinite(found)] = np.nan
        return found

    def of(self, values: Float64Vector) -> IntArray:
        """Return the numbers of intervals of values ``[columns]``: how many edges are not above it."""
        numbers = [
            len(edges) + 1 if math.isnan(value) else int(np.searchsorted(edges, value, side="right"))
            for edges, value in zip(self.edges, values, strict=True)
        ]
        return np.array(numbers, dtype=np.int64)

    def rows(self, patients: Patients) -> Rows:
        """Return the rows of patients whose label is one of the job's classes."""
        bins, labels, owner, count = [], [], [], 0
        for mine in patients:
            known = [image for image in mine if image.label is not None]
            for image in known:
                bins.append(self.of(self.values(image)))
                labels.append(image.label or 0)
                owner.append(count)
            count += bool(known)
        shaped = np.array(bins, dtype=np.int64).reshape(len(bins), len(self._columns))
        return Rows(shaped, np.array(labels, dtype=np.int64), np.array(owner, dtype=np.int64), count)


def with_enough(rows: Rows, bins: "Bins", least: int) -> Rows:
    """Return rows in which every interval of a column has at least `least` patients of each class, or none of it.

    Smaller ones are merged with their neighbours, missing values counting as below all others. Trees that divide one column at
    neighbouring edges would otherwise differ by single patients. This holds for one column; trees over several columns still
    divide the patients of an interval in many ways, which nothing here bounds.
    """
    if least <= 1 or not len(rows.labels):
        return rows
    merged = np.stack(
        [_merged(rows, rows.bins[:, place], int(last), least) for place, last in enumerate(bins.missing)], axis=1
    )
    return replace(rows, bins=merged)


def _merged(rows: Rows, column: IntArray, last: int, least: int) -> IntArray:
    order = [last, *range(last)]
    who = [
        {(int(k), int(p)) for k, p in zip(rows.labels[column == n], rows.owner[column == n], strict=True)}
        for n in order
    ]
    groups: list[list[int]] = []
    people: list[set[tuple[int, int]]] = []
    for number, mine in zip(order, who, strict=True):
        if groups and _small(people[-1], least):
            groups[-1].append(number)
            people[-1] |= mine
        else:
            groups.append([number])
            people.append(set(mine))
    while len(groups) > 1 and _small(people[-1], least):
        rest, theirs = groups.pop(), people.pop()
        groups[-1] += rest
        people[-1] |= theirs
    table = np.empty(last + 1, dtype=np.int64)
    for group in groups:
        table[group] = group[-1]  # missing values, which come first, go where their neighbours are
    return table[column]


def _small(people: set[tuple[int, int]], least: int) -> bool:
    """Return whether some class has fewer than `least` patients among these, but not none."""
    counts = Counter(label for label, _ in people)
    return any(count < least for count in counts.values())


def check_cells(cells: int) -> int:
    """Return the number of cells of a step.

    Raises:
        JobError: there are more than `MOST_CELLS`.
    """
    if cells > MOST_CELLS:
        raise JobError(
            f"Expected at most {MOST_CELLS} numbers in one step, got {cells}.",
            remedy="Use fewer trees, a smaller depth, fewer intervals or fewer columns.",
        )
    return cells


def owners(rows: Rows, cells: IntArray, size: int) -> npt.NDArray[np.bool_]:
    """Return which patients are in which cells, ``[patients, size]``; cells below 0 are none."""
    present = np.zeros((rows.patients, size), dtype=np.bool_)
    inside = cells >= 0
    present[rows.owner[inside], cells[inside]] = True
    return present


def gradients(margins: Sequence[float], labels: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return first and second derivatives of the log loss by the log-odds, ``[rows, 2]``, as multiples of ``1 / FIXED``.

    A row's numbers depend on that row only, to the last bit: each logarithm of the odds is treated by itself.
    """
    found = np.empty((len(labels), 2))
    for place, (margin, label) in enumerate(zip(margins, labels, strict=True)):
        p = 1 / (1 + math.exp(-min(500.0, max(-500.0, margin))))
        found[place] = p - label, max(p * (1 - p), 1 / FIXED)
    return np.rint(found * FIXED) / FIXED
