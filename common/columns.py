"""The columns that a job reads: those it lists, or those that a step of its chain makes of each image."""

from salus.common.job import TaskSettings
from salus.common.job_statistics import Column
from salus.common.transforms import kind_of


def columns_of(task: TaskSettings) -> tuple[Column, ...]:
    """Return ``task.columns``, or if there are none the columns of the steps that turn an image into a row."""
    if task.columns:
        return task.columns
    return tuple(column for step in task.transforms for column in kind_of(step).columns(step))
