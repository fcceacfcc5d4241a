"""One patient's row of a table, or one image's intensity features, as a point of bounded size for models from sums."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from salus.common.columns import columns_of
from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.sums.base import Float64Vector, Measured
from salus.common.sums.features import FEATURES, image_features

MOST_CELLS = 2_000_000  # of a row; with more the sum is too long to send
REACH = 4.0  # a column is cut off at this many scales to either side of its centre


@dataclass(frozen=True)
class Axis:
    """One coordinate of a point: ``coordinate = (value - centre) / unit``, in -1 .. 1.

    Args:
        name: of the column, or ``column = value`` for one value of a categorical column.
        centre, unit: in the column's own unit.
    """

    name: str
    centre: float = 0.0
    unit: float = 1.0


class Points:
    """The coordinates that a job reads: its columns, or without columns the features of an image.

    Args:
        reference: whether the first value of a categorical column has no coordinate, because the others are compared with it.
    """

    def __init__(self, job: Job, *, reference: bool = False) -> None:
        assert job.statistics is not None  # Safe because `sums_of` has looked.
        self._columns, self._first = columns_of(job.task), int(reference)
        self._low, self._high = job.statistics.intensity_low, job.statistics.intensity_high
        self.axes: list[Axis] = [] if self._columns else [Axis(name) for name in FEATURES]
        for column in self._columns:
            if column.values:
                self.axes += [Axis(f"{column.name} = {value:g}") for value in column.values[self._first :]]
            else:
                self.axes.append(Axis(column.name, column.centre, REACH * column.scale))

    def of(self, image: Measured) -> Float64Vector | None:
        """Return the point ``[axes]``, in -1 .. 1; None if a value is missing or is not one of its column's."""
        if not self._columns:
            found = image_features(image.intensities, self._low, self._high, image.padding)
            return None if found is None else np.clip(found, -1.0, 1.0)
        coordinates: list[float] = []
        for column in self._columns:
            value = image.columns.get(column.name, math.nan)
            if column.values:
                if value not in column.values:
                    return None
                coordinates += [float(value == known) for known in column.values[self._first :]]
            elif math.isfinite(value):
                coordinates.append(min(1.0, max(-1.0, (value - column.centre) / (REACH * column.scale))))
            else:
                return None
        return np.array(coordinates)


def pairs_of(size: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return rows and columns of the upper half of a square matrix; raises JobError for one of more than `MOST_CELLS`."""
    if size * (size + 1) // 2 > MOST_CELLS:  # before anything of this size exists
        raise JobError(
            f"Expected at most {MOST_CELLS} pairs of columns, got {size * (size + 1) // 2}.",
            remedy="Use fewer columns, or fewer values of a column.",
        )
    return np.triu_indices(size)
