"""A site as one party of a session: its identity, its durable memory and its limits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from salus.common.identity import Identity
from salus.privacy.protocol.head import Head
from salus.privacy.protocol.store import SessionStore
from salus.privacy.randomness import Random


@dataclass(frozen=True)
class SiteParty:
    """A site's identity and limits in a session.

    Args:
        keys: Ed25519 public keys of the whole roster pinned at this site, by site id.
        store: durable memory that survives a crash.
        minimum_cohort: minimum number of sites that the site policy allows; the protocol has its own minimum as well.
        random: source of cryptographic randomness.
        scope: data set and epoch for which all sums must be over the same sites.
        head: the head of the site's privacy ledger, for jobs with differential privacy; None for others.
        removed: sites of the roster that are no longer members; no sum with one of them is opened.
    """

    site: int
    identity: Identity
    keys: Mapping[int, bytes]
    store: SessionStore
    minimum_cohort: int
    random: Random
    scope: str
    head: Callable[[], Head] | None = None
    removed: frozenset[int] = frozenset()

    @property
    def noised(self) -> bool:
        """Whether the vectors have differential privacy."""
        return self.head is not None
