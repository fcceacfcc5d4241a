"""What is computed from sums over all sites, without training. Each kind is one file here with a class that fulfils `Sums`.

To add one: that file, one test, and one line below; a site adds its own through the entry-point group ``salus.sums``.
"""

from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.registry import Registry
from salus.common.sums.base import Sums
from salus.common.sums.images import chain_of

SUMS = Registry(
    "kind of statistics",
    "salus.sums",
    {
        "boosting": "salus.common.sums.boosting:Boosting",
        "codebook": "salus.common.sums.codebook:Codebook",
        "combat": "salus.common.sums.combat:Combat",
        "cox": "salus.common.sums.cox:Cox",
        "kaplan-meier": "salus.common.sums.kaplan_meier:KaplanMeier",
        "forest": "salus.common.sums.forest:Forest",
        "least-squares": "salus.common.sums.least_squares:LeastSquares",
        "kmeans": "salus.common.sums.kmeans:KMeans",
        "logistic": "salus.common.sums.logistic:Logistic",
        "nyul": "salus.common.sums.nyul:Nyul",
        "quantiles": "salus.common.sums.quantiles:Quantiles",
        "random-boosting": "salus.common.sums.random_boosting:RandomBoosting",
        "summary": "salus.common.sums.summary:Summary",
    },
)


def sums_of(job: Job) -> Sums:
    """Return what is computed by a job with a ``[statistics]`` section.

    Raises:
        JobError: no such section, an unknown kind, unsupported settings, transforms that do not fit, or another number of
            rounds than its steps.
    """
    if job.statistics is None:
        raise JobError("Expected a job with a [statistics] section.", remedy="Add one, or train with this job.")
    chain_of(job)
    sums: Sums = SUMS.get(job.statistics.kind, error=JobError)(job)
    if job.job.rounds != sums.steps:
        raise JobError(
            f"Expected rounds = {sums.steps} for statistics of kind {job.statistics.kind!r}, got {job.job.rounds}.",
            remedy="Set rounds to that number.",
        )
    if job.statistics.held_out and not hasattr(sums, "evaluation_rows"):
        raise JobError(
            f"Expected statistics.held_out = 0 for statistics of kind {job.statistics.kind!r}, whose result is no model that "
            "tells classes apart.",
            remedy="Remove the line, or use a kind such as logistic, boosting, forest or least-squares.",
        )
    return sums
