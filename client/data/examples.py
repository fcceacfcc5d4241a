"""From a sample as its source reads it to the example that a task prepares."""

from collections.abc import Sequence

from salus.client.data.records import Sample
from salus.common.errors import DataError
from salus.common.examples import Example
from salus.common.job import TaskSettings
from salus.common.job_statistics import Column

LABEL = "label"  # from the catalogue, so an operator may correct it; everything else follows from what was read


def example_of(sample: Sample, task: TaskSettings, vendor: str) -> Example:
    """Return a sample's fields under the names that tasks use, without its label.

    Raises:
        DataError: the table lacks a column of the job.
    """
    facts = {"vendor": vendor}
    if sample.columns:
        return Example({"features": sample.values[_places(sample.columns, task.columns)]}, facts=facts)
    return Example({"image": sample.values}, frozenset({"image"}), facts=facts)


def _places(have: Sequence[str], wanted: Sequence[Column]) -> list[int]:
    """Return the positions of the job's columns in the table; they are matched by name, never by order."""
    missing = [column.name for column in wanted if column.name not in have]
    if missing:
        raise DataError(f"The table has no column {missing[0]!r}.", remedy="Register a table with the job's columns.")
    return [list(have).index(column.name) for column in wanted]
