"""Classification of table rows: each column is standardised with public constants from the job.

The constants come from the job and not from the data, because a mean computed at a site would itself be a release.
"""

import numpy as np
import torch

from salus.common.errors import DataError, JobError
from salus.common.job import TaskSettings
from salus.common.tasks.base import FloatArray
from salus.common.tasks.classification import Classification


class Tabular(Classification):
    """One label per row; a missing value becomes the column's centre, or no category."""

    def __init__(self, settings: TaskSettings) -> None:
        if not settings.columns or settings.shape:
            raise JobError(
                "Expected task.columns and no task.shape for a tabular task.",
                remedy='List each input as [[task.columns]] with "name", "centre" and "scale".',
            )
        self._set_classes(settings)

    def prepare(self, values: FloatArray) -> torch.Tensor:
        """Return the features of one row.

        Args:
            values: ``[columns]`` in the job's order, NaN where missing.

        Raises:
            DataError: the number of columns is not the job's.
        """
        if values.shape != (len(self.settings.columns),):
            raise DataError(
                f"Expected rows of {len(self.settings.columns)} columns, got {values.size}.",
                remedy="Register the table with the job's columns.",
            )
        features: list[float] = []
        for column, value in zip(self.settings.columns, values, strict=True):
            if column.values:
                features.extend(float(value == category) for category in column.values)
            else:
                features.append(0.0 if np.isnan(value) else (float(value) - column.centre) / column.scale)
        return torch.tensor(features, dtype=torch.float32)

    def _input_shape(self) -> tuple[int, ...]:
        return (sum(max(1, len(column.values)) for column in self.settings.columns),)
