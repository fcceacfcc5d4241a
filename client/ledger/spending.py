"""What patients have spent: their releases composed, by groups of patients with the same history."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from salus.privacy.dp.accounting import Release, epsilon, merged


@dataclass(frozen=True)
class Group:
    """Patients with the same history.

    Args:
        jobs: the jobs they took part in, ascending.
        releases: what these jobs have cost each of them: reserved releases of open jobs, committed releases of closed ones.
    """

    patients: int
    jobs: tuple[str, ...]
    releases: tuple[Release, ...]

    def epsilon(self, delta: float, further: Sequence[Release] = ()) -> float:
        """Return what each of these patients has spent, or would have spent with `further` releases."""
        return epsilon([*self.releases, *further], delta)


def groups_of(jobs_by_patient: Iterable[tuple[str, ...]], cost: Mapping[str, Sequence[Release]]) -> list[Group]:
    """Return the groups, the one that has spent on most jobs first.

    Args:
        jobs_by_patient: for each patient the jobs it took part in, ascending; jobs without a cost are left out.
        cost: releases by job.
    """
    counts: dict[tuple[str, ...], int] = {}
    for jobs in jobs_by_patient:
        known = tuple(job for job in jobs if job in cost)
        counts[known] = counts.get(known, 0) + 1
    groups = [Group(n, jobs, merged([r for job in jobs for r in cost[job]])) for jobs, n in counts.items()]
    return sorted(groups, key=lambda group: (-len(group.jobs), group.jobs))
