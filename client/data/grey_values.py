"""Jobs whose range of grey values does not fit how a kind of source gives its images; no image is read to find out.

Pictures (PNG, JPEG, MedMNIST) have values from 0 to 1, whatever the chain asks for; DICOM and NIfTI have their own units.
"""

from salus.client.data.sources import SOURCES
from salus.common.errors import ConfigError, DataError, JobError, UnfitError
from salus.common.job import Job
from salus.common.sums import SUMS
from salus.common.transforms.chain import Chain
from salus.common.transforms.ranges import REMEDY, flat_step, flat_words


def flat_here(job: Job, kind: str) -> str:
    """Return, as a sentence, which range of a job makes all images of a source flat; empty if none does.

    Args:
        kind: of the source, see `sources.SOURCES`.
    """
    if not getattr(SOURCES.get(kind, error=DataError), "unit_range", False):
        return ""
    try:
        found = _flat_range(job)
    except (JobError, ConfigError):
        return ""  # a chain that cannot be built is refused by its own name
    return f"{found}, but the pictures here have values from 0 to 1 and would all be flat." if found else ""


def require_range(job: Job, kind: str) -> None:
    """Raise UnfitError if `flat_here` has something to say."""
    found = flat_here(job, kind)
    if found:
        raise UnfitError(found, remedy=REMEDY)


def _flat_range(job: Job) -> str:
    chain = Chain.of(job.task.transforms, job.task)  # a task's own transforms fit all images
    found, statistics = flat_step(chain), job.statistics
    if found or statistics is None or job.task.columns:
        return found
    scaled = any(step.rescales or step.grey_range is not None for step in chain.steps)
    if scaled or not getattr(SUMS.get(statistics.kind, error=JobError), "ranged", False):
        return ""
    return flat_words(f"statistics of kind {statistics.kind!r}", statistics.intensity_low, statistics.intensity_high)
