"""Who takes part in a job, and why the others do not: membership, cohort, connection.

A running job continues over the roster with which it began. A member that has left since, or has new keys, counts as away; a
member that has joined since takes part from the next job on.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from salus.common.job import Job
from salus.common.roster import Roster

OFFLINE = "offline"


def scope_of(job: Job) -> str:
    """Return the scope in which all sums without noise must be over the same sites: data set and epoch."""
    return f"{job.task.dataset}/{job.job.cohort_epoch}"


@dataclass(frozen=True)
class Participants:
    """The sites of one job.

    Args:
        keys: Ed25519 keys of the whole roster with which the job began, by site id.
        outside: returns the sites that cannot take part now because of their membership, with the reason.
        roster: hash of that roster, which every request names; empty without a roster, as in a simulation.
    """

    keys: Mapping[int, bytes]
    outside: Callable[[], Mapping[int, str]] = dict
    roster: str = ""

    def present(self, nodes: Mapping[int, int]) -> dict[int, int]:
        """Return the nodes of the online sites that may take part."""
        outside = self.outside()
        return {site: node for site, node in nodes.items() if site in self.keys and site not in outside}

    def absent(self, job: Job, online: Collection[int], cohort: Collection[int]) -> dict[int, str]:
        """Return the reason for each site that is not asked, by site id.

        Args:
            cohort: sites of earlier sums without noise over this data set; empty if none restricts this job.
        """
        reasons = dict(self.outside())
        for site in self.keys:
            if site in reasons:
                continue
            if cohort and site not in cohort:
                reasons[site] = (
                    f"not in the cohort of {job.task.dataset} in epoch {job.job.cohort_epoch}: all sums without noise over one "
                    "data set are over the same sites until all operators agree on the next cohort_epoch"
                )
            elif site not in online:
                reasons[site] = OFFLINE
        return dict(sorted(reasons.items()))


def participants(
    began: Roster,
    newest: Callable[[], Roster],
    digest: str = "",
    waiting: Callable[[str], Mapping[int, str]] = lambda digest: {},
) -> Participants:
    """Return the sites of a job that began with one roster and runs while others become the newest.

    Args:
        newest: returns the newest roster, which may be replaced while the job runs.
        digest: hash of `began`.
        waiting: returns the sites that are known to lack the roster with this hash, with the reason.
    """

    def outside() -> dict[int, str]:
        return {**waiting(digest), **_outside(began, newest())}

    return Participants(began.keys(), outside, digest)


def _outside(began: Roster, newest: Roster) -> dict[int, str]:
    reasons: dict[int, str] = {}
    now = {site.id: site for site in newest.sites}
    for site in began.sites:
        if site.id not in now:
            reasons[site.id] = "left the consortium since the job began"
        elif (site.public_key, site.node_key) != (now[site.id].public_key, now[site.id].node_key):
            reasons[site.id] = "has new keys since the job began; it takes part from the next job on"
    for number in set(now) - set(began.site_ids()):
        reasons[number] = "joined the consortium after the job began; it takes part from the next job on"
    return reasons
