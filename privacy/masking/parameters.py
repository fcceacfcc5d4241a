"""Thresholds and cohorts of the masked sum: who may collude, how many must agree, which sums may follow each other."""

from collections.abc import Iterable
from dataclasses import dataclass

from salus.common.errors import ProtectionError

SMALLEST_COHORT = 5
SMALLEST_SESSION = 3  # below, the other site's vector is the sum minus one's own


@dataclass(frozen=True)
class Thresholds:
    """The numbers of a session over `sites` sites.

    Args:
        colluders: c, sites that may collude with the coordinator.
        threshold: t, sites whose consent and whose shares are needed.

    Guarantees: ``2 t > n + c``, so two different survivor sets can never both gather t consents, even if the c colluders
    sign both.

    Edge cases: n < 3 is refused; n = 3 gives c = 1, t = 3.
    """

    sites: int
    colluders: int
    threshold: int

    @property
    def minimum_cohort(self) -> int:
        """Fewest survivors without differential privacy: max(5, c + 3)."""
        return max(SMALLEST_COHORT, self.colluders + 3)

    @property
    def needed(self) -> int:
        """Fewest survivors with which a session can end: max(t, minimum cohort)."""
        return max(self.threshold, self.minimum_cohort)


def thresholds(sites: int) -> Thresholds:
    """Return the thresholds for a roster of this many sites; raises ProtectionError below 3."""
    if sites < SMALLEST_SESSION:
        raise ProtectionError(
            f"Expected at least {SMALLEST_SESSION} sites for a masked sum, got {sites}.", remedy="Add sites."
        )
    colluders = max(1, (sites - 1) // 3)
    return Thresholds(sites, colluders, (sites + colluders) // 2 + 1)


def may_follow(earlier: Iterable[frozenset[int]], survivors: frozenset[int]) -> bool:
    """Return whether a sum over `survivors` may follow sums over `earlier`: all of them over the very same sites.

    The difference of two sums over different sites says something about the sites in which they differ. A rule that lets
    sets follow each other if they differ in c + 2 sites does not help: ten such sums at 14 sites, combined linearly, gave
    every honest site's vector (tried on this predicate).
    """
    return all(before == survivors for before in earlier)
