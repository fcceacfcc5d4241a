"""Thresholds and cohorts of the masked sum: who may collude, how many must agree, which sums may follow each other."""

from collections.abc import Iterable
from dataclasses import dataclass

from salus.common.errors import ProtectionError

SMALLEST_COHORT = 5
SMALLEST_NOISED_COHORT = 3
SMALLEST_SESSION = 3  # below, the other site's vector is the sum minus one's own


@dataclass(frozen=True)
class Thresholds:
    """The numbers of a session over `sites` sites.

    Args:
        colluders: c, sites that may collude with the coordinator.
        threshold: t, sites whose consent and whose shares are needed.
        noised: whether the vectors carry differential privacy of their own.

    Guarantees: ``2 t > n + c``, so two different survivor sets can never both gather t consents, even if the c colluders
    sign both.

    Edge cases: n < 3 is refused; n = 3 gives c = 1, t = 3.
    """

    sites: int
    colluders: int
    threshold: int
    noised: bool = False

    @property
    def honest(self) -> int:
        """h = t - c: the fewest survivors that do not collude, on whose noise shares distributed noise counts."""
        return self.threshold - self.colluders

    @property
    def minimum_cohort(self) -> int:
        """Fewest survivors: max(5, c + 3), and 3 under differential privacy, where the noise and not the crowd protects."""
        if self.noised:
            return SMALLEST_NOISED_COHORT
        return max(SMALLEST_COHORT, self.colluders + 3)

    @property
    def needed(self) -> int:
        """Fewest survivors with which a session can end: max(t, minimum cohort)."""
        return max(self.threshold, self.minimum_cohort)


def thresholds(sites: int, *, noised: bool = False) -> Thresholds:
    """Return the thresholds for a roster of this many sites; raises ProtectionError below 3."""
    if sites < SMALLEST_SESSION:
        raise ProtectionError(
            f"Expected at least {SMALLEST_SESSION} sites for a masked sum, got {sites}.", remedy="Add sites."
        )
    colluders = max(1, (sites - 1) // 3)
    return Thresholds(sites, colluders, (sites + colluders) // 2 + 1, noised)


def may_follow(earlier: Iterable[frozenset[int]], survivors: frozenset[int]) -> bool:
    """Return whether a sum over `survivors` may follow sums over `earlier`: all of them over the very same sites.

    The difference of two sums over different sites says something about the sites in which they differ. A rule that lets
    sets follow each other if they differ in c + 2 sites does not help: ten such sums at 14 sites, combined linearly, gave
    every honest site's vector (tried on this predicate). Sums under differential privacy need no such rule: whatever is
    computed from several of them is covered by what they cost together.
    """
    return all(before == survivors for before in earlier)
