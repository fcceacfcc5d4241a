"""The package that a command names as the start of a job."""

from pathlib import Path

from salus.common.errors import NoStart, StartError
from salus.common.job import Job
from salus.common.package.checking import checked_package
from salus.common.package.model import start_in
from salus.common.start.applying import first_network
from salus.common.start.weights import Weights


def start_from(job: Job, path: Path | None) -> Weights | None:
    """Return the weights with which a job starts, from the package at `path`; None for a job without a start.

    Raises:
        NoStart: no package for a job with a start.
        StartError: a package for a job without one, or one that is not the job's or does not fit it.
        PackageError: no valid package.
    """
    if job.start is None:
        if path is not None:
            raise StartError(
                "The job has no section start, so --start would have no effect.",
                remedy="Add the section that this prints: salus model start PACKAGE",
            )
        return None
    if path is None:
        raise NoStart(
            f"The job starts from the package {job.start.package}, and none was given.", remedy="Add --start PACKAGE."
        )
    with checked_package(path) as package:
        weights, of = start_in(package, job.start), package.job.task
    try:
        first_network(job, weights)
    except StartError as problem:
        raise StartError(
            f"{problem.problem} The package is of {of.model!r} for {of.kind!r}.", remedy=problem.remedy
        ) from None
    return weights
