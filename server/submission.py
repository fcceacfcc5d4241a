"""Submissions: the text of a job file, or a job that the coordinator's key has signed."""

import json

from salus.common.errors import JobError
from salus.common.identity import Signed
from salus.common.job import Job, job_from_canonical, parse_job
from salus.common.strict import validate


def job_or_signed(text: str) -> Job | Signed:
    """Return the job of a job file, or a signed job whose signature is still to be checked.

    Raises:
        JobError: neither a job file nor a signed job.
    """
    if not text.lstrip().startswith("{"):
        return parse_job(text)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise JobError("Expected a job file or a signed job.", remedy="Sign the job again.") from None
    return validate(Signed, values, error=JobError, what="signed job")


def job_in(text: str) -> Job:
    """Return the job in a job file or in a signed job, without checking a signature; errors as in `job_or_signed`."""
    found = job_or_signed(text)
    return found if isinstance(found, Job) else job_from_canonical(found.document.encode())
