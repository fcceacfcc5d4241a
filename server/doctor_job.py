"""What `salus doctor --job` says at the coordinator: can the job run with this roster, and what a round moves."""

from collections.abc import Sequence
from pathlib import Path

from salus.common.cost import megabytes
from salus.common.doctor.findings import Finding, skipped
from salus.common.doctor.load import bytes_of
from salus.common.errors import SalusError
from salus.common.job import load_job
from salus.server.checks import check_job


def job_checks(path: Path, sites: Sequence[int]) -> list[Finding]:
    """Return the findings about a job.

    Args:
        sites: ids of the sites on the roster.
    """
    try:
        job = load_job(path)
        check_job(job, sites)
    except SalusError as problem:
        failed = Finding("job", "failed", problem.problem, "job-invalid", problem.remedy)
        return [failed, skipped("round", "The job cannot run.")]
    down, up = bytes_of(job)
    values = {"down_bytes": down * len(sites), "up_bytes": up * len(sites), "sites": len(sites)}
    text = (
        f"A round sends {megabytes(down * len(sites))} MB to {len(sites)} sites and receives {megabytes(up * len(sites))} MB; "
        "how long it takes, each site says with `salus doctor --job`."
    )
    ask = "Ask the sites with `salus job check`."
    return [
        Finding("job", "ok", f"The job can run with this roster. {ask}"),
        Finding("round", "ok", text, values=values),
    ]
