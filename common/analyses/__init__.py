"""Statistics over all sites without training. An analysis is one file here with a class that fulfils `Analysis`.

To add one: that file, one test, and one line below; a site adds its own through the entry-point group ``salus.analyses``.
"""

from salus.common.analyses.base import Analysis
from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.registry import Registry

ANALYSES = Registry(
    "kind of statistics",
    "salus.analyses",
    {
        "combat": "salus.common.analyses.combat:Combat",
        "nyul": "salus.common.analyses.nyul:Nyul",
        "quantiles": "salus.common.analyses.quantiles:Quantiles",
        "summary": "salus.common.analyses.summary:Summary",
    },
)


def analysis_of(job: Job) -> Analysis:
    """Return the analysis of a job with a ``[statistics]`` section.

    Raises:
        JobError: no such section, an unknown kind, unsupported settings, or a number of rounds other than its steps.
    """
    if job.statistics is None:
        raise JobError("Expected a job with a [statistics] section.", remedy="Add one, or train with this job.")
    analysis: Analysis = ANALYSES.get(job.statistics.kind, error=JobError)(job)
    if job.job.rounds != analysis.steps:
        raise JobError(
            f"Expected rounds = {analysis.steps} for statistics of kind {job.statistics.kind!r}, got {job.job.rounds}.",
            remedy="Set rounds to that number.",
        )
    return analysis
