"""The transforms of a job of statistics: each image is measured as its chain leaves it, as an image or as a row."""

from salus.common.batch import Field
from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.transforms import kind_of
from salus.common.transforms.base import UNKNOWN
from salus.common.transforms.chain import Chain
from salus.common.transforms.checks import IMAGE


def chain_of(job: Job) -> Chain:
    """Return the chain of a job of statistics, which may be empty.

    Raises:
        JobError: a step that does not fit the ones before; the message names it.
        ConfigError: a step needs a package that is not installed.
    """
    chain = Chain.of(job.task.transforms, job.task)
    sides = (UNKNOWN,) * (len(job.task.shape) or 2)
    chain.stages({IMAGE: Field((job.task.channels, *sides), spatial=True)} if job.task.transforms else {})
    return chain


def makes_rows(job: Job) -> bool:
    """Return whether the job's chain turns every image into a row."""
    return any(kind_of(step).rows for step in job.task.transforms)


def check_images(job: Job) -> None:
    """Raise JobError where statistics that read images get rows from their chain."""
    if makes_rows(job):
        raise JobError(
            "Expected images for these statistics, but a step of task.transforms turns them into rows.",
            remedy="Remove the step, or use statistics of columns.",
        )
