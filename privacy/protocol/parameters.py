"""Thresholds and cohorts of the masked sum: how many sites may collude, how many must agree, which sums may follow."""

from collections.abc import Iterable
from dataclasses import dataclass

from salus.common.errors import ProtectionError

SMALLEST_COHORT = 5
SMALLEST_NOISED_COHORT = 3
SMALLEST_SESSION = 3  # with two sites, the sum minus one's own vector is the other site's vector


@dataclass(frozen=True)
class Thresholds:
    """The numbers of a session over `sites` sites.

    Args:
        colluders: c, sites that may collude with the coordinator.
        threshold: t, number of sites whose consent and shares are needed.
        noised: whether the vectors have differential privacy.

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
        """h = t - c: the fewest survivors that do not collude, whose noise shares distributed noise relies on."""
        return self.threshold - self.colluders

    @property
    def minimum_cohort(self) -> int:
        """Fewest survivors: max(5, c + 3), and 3 with noise, which then protects instead of the number of sites."""
        if self.noised:
            return SMALLEST_NOISED_COHORT
        return max(SMALLEST_COHORT, self.colluders + 3)

    @property
    def needed(self) -> int:
        """Fewest survivors with which a session can finish: max(t, minimum cohort)."""
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
    """Return whether a sum over `survivors` may follow sums over `earlier`: all of them must be over the same sites.

    The difference between two sums over different sites reveals something about the sites in which they differ. Requiring
    that the sets differ in at least c + 2 sites does not help: ten such sums at 14 sites, combined linearly, gave
    every honest site's vector (tried on this predicate). Sums under differential privacy need no such rule: anything
    computed from several of them is covered by their total privacy cost.
    """
    return all(before == survivors for before in earlier)
