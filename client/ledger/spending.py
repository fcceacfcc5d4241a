"""What patients have spent: their releases composed, by groups of patients with the same history.

Patients who turn out to be one person have spent, together, what each of them has:

    different jobs   composition: the releases of all of their jobs
    one job          group privacy: the person stood in k places, so that each release is counted as one with k times the
                     sensitivity, in which the person is sampled if any of the k places is

For one job the second is needed, as composition would count too little: k sums move together, and the Renyi divergence of a
Gaussian grows with k squared. With k places sampled independently the person adds at most k times the clipping bound, and
nothing with probability (1 - q)^k; a shift that is never smaller and never rarer dominates it (Ganesh 2024, arXiv 2401.10294, has
the tight bound, which is smaller).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from salus.privacy.dp.accounting import Release, epsilon, merged


@dataclass(frozen=True)
class Group:
    """Patients with the same history.

    Args:
        jobs: the jobs they took part in, ascending; a job in which a person was k patients is there k times.
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
    groups = [Group(n, jobs, merged(_spent(jobs, cost))) for jobs, n in counts.items()]
    return sorted(groups, key=lambda group: (-len(group.jobs), group.jobs))


def _spent(jobs: Sequence[str], cost: Mapping[str, Sequence[Release]]) -> list[Release]:
    return [in_places(release, jobs.count(job)) for job in dict.fromkeys(jobs) for release in cost[job]]


def in_places(release: Release, places: int) -> Release:
    """Return what a release costs a person who stood in so many places of it, at least 1."""
    if places == 1:
        return release
    rate = min(1.0, places * release.sampling_rate)  # at least 1 - (1 - q)^k
    return release.model_copy(update={"noise_multiplier": release.noise_multiplier / places, "sampling_rate": rate})


def persons(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return one patient for all that pairs connect, by each of them; patients in no pair are left out."""
    found: dict[str, str] = {}

    def first(patient: str) -> str:
        while found.setdefault(patient, patient) != patient:
            patient = found[patient]
        return patient

    for one, other in sorted(pairs):
        a, b = sorted((first(one), first(other)))
        found[b] = a
    return {patient: first(patient) for patient in found}
