"""What the coordinator shows of a job beside its records: what its sites do now, and who is not asked and why."""

from typing import Any

from salus.common.trust import Trust
from salus.privacy.protection import protection_of
from salus.server.checkpoints import Checkpoints, JobRow
from salus.server.link import Link
from salus.server.participants import scope_of
from salus.server.running import JobRunner


def progress_of(link: Link) -> list[dict[str, Any]]:
    """Return what each site said last about its work, without those at rest."""
    said = sorted(link.progress().items())
    found = [(site, seen.progress) for site, seen in said if seen.progress.request]
    return [{"site": site, "step": one.step, "percent": one.percent} for site, one in found]


def absent_from(
    row: JobRow, runner: JobRunner, trust: Trust, link: Link, checkpoints: Checkpoints
) -> list[dict[str, Any]]:
    """Return the sites that are not asked in a job now, with names and reasons."""
    who = runner.participants(row.roster)
    names = {**trust.roster(who.roster).names(), **trust.newest.names()}
    bound = protection_of(row.job).protects and not row.job.privacy.noised
    cohort = checkpoints.cohort(scope_of(row.job)) if bound else ()
    absent = who.absent(row.job, link.directory(), cohort)
    return [{"site": site, "name": names[site], "reason": reason} for site, reason in absent.items()]
