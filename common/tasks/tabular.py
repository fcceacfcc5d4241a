"""Classification of table rows: each column is standardised with public constants from the job.

The constants come from the job and not from the data, because a mean computed at a site would itself be a release.
"""

from salus.common.batch import Field
from salus.common.columns import columns_of
from salus.common.errors import DataError, JobError
from salus.common.examples import Example
from salus.common.job import TaskSettings
from salus.common.optional_torch import torch
from salus.common.tasks.classification import Classification
from salus.common.tasks.encoding import encoded_row, row_width


class Tabular(Classification):
    """One label per row; a missing value becomes the column's centre, or no category."""

    def __init__(self, settings: TaskSettings) -> None:
        self.columns = columns_of(settings)
        if not self.columns or settings.shape:
            raise JobError(
                "Expected task.columns and no task.shape for a tabular task.",
                remedy='List inputs as [[task.columns]] with "name", "centre" and "scale", or add a step such as "radiomics".',
            )
        self._set(settings, {"features": Field((row_width(self.columns),))})

    def _inputs(self, example: Example) -> torch.Tensor:
        """Return the features of one row.

        Args:
            example: its field ``features`` is ``[columns]`` in the job's order, NaN where missing.
        """
        if "features" not in example:
            raise DataError("Expected rows of a table, got images.", remedy="Use an imaging task for this data set.")
        values = example["features"]
        if values.shape != (len(self.columns),):
            raise DataError(
                f"Expected rows of {len(self.columns)} columns, got {values.size}.",
                remedy="Register the table with the job's columns.",
            )
        return torch.tensor(encoded_row(self.columns, values), dtype=torch.float32)


class ImagesOrRows(Tabular):
    """A base of tasks that take either: rows of a table if the job names columns and no shape, otherwise images."""

    def __init__(self, settings: TaskSettings) -> None:
        kind = Tabular if columns_of(settings) and not settings.shape else Classification
        kind.__init__(self, settings)

    def _inputs(self, example: Example) -> torch.Tensor:
        return super()._inputs(example) if self.input == "features" else Classification._inputs(self, example)
