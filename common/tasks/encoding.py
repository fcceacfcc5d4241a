"""A row of a table as features of a network, with the public constants of the job."""

from collections.abc import Sequence

import numpy as np

from salus.common.examples import Array
from salus.common.job_statistics import Column


def row_width(columns: Sequence[Column]) -> int:
    """Return the number of features of a row: one for each number and one for each category."""
    return sum(max(1, len(column.values)) for column in columns)


def encoded_row(columns: Sequence[Column], values: Array) -> list[float]:
    """Return the features of a row; a missing value is the column's centre, or no category.

    Args:
        values: ``[columns]``, NaN where missing.
    """
    features: list[float] = []
    for column, value in zip(columns, values, strict=True):
        if column.values:
            features.extend(float(value == category) for category in column.values)
        else:
            features.append(0.0 if np.isnan(value) else (float(value) - column.centre) / column.scale)
    return features
