"""Which sites contributed data to a sum without noise, and when such a sum may be opened.

A sum over five sites of which four sent zeros is the fifth site's vector. So each site states, to the sites that decide about
opening and never to the coordinator, from which kinds of its own data its vector was computed. Before it agrees to open a sum,
a site counts these statements and compares them with those of every earlier sum over the same data.

What this proves, and what it does not, is in ``docs/masked-sum.md``. Sums with noise do not use it: their noise, not the number
of sites, protects a patient.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from salus.common.errors import NotOpened, ProtectionError
from salus.privacy.contribution import DataKind

STATEMENT_BYTES = 3
LARGEST_MINIMUM = 2**16 - 1
Contributors = Mapping[DataKind, frozenset[int]]


@dataclass(frozen=True)
class Statement:
    """What one site states about its vector.

    Args:
        data: the kinds of its own data that the vector was computed from.
        minimum: fewest contributing sites that its operator requires, 0 to 65535.
    """

    data: DataKind = DataKind.NONE
    minimum: int = 0

    def to_bytes(self) -> bytes:
        """Return 3 bytes: the kinds as bits, then the minimum as u16, big-endian."""
        return bytes([int(self.data)]) + min(self.minimum, LARGEST_MINIMUM).to_bytes(2, "big")

    @classmethod
    def from_bytes(cls, data: bytes, site: int) -> "Statement":
        """Read a site's statement; raises ProtectionError naming the site for another length or an unknown kind of data."""
        if len(data) != STATEMENT_BYTES or data[0] & ~int(DataKind.ALL):
            raise ProtectionError(
                f"The statement of site {site} about its data cannot be read.",
                remedy="Run the same version of Salus at all sites.",
            )
        return cls(DataKind(data[0]), int.from_bytes(data[1:], "big"))


@dataclass(frozen=True)
class Consent:
    """What a site remembers of a sum that it agreed to open.

    Args:
        survivors: the sites in the sum.
        way: how the sum was protected, and by whom it was opened, such as ``masking`` or ``encryption/2``.
        contributors: which of them contributed which kind of data, as far as this site was told.
    """

    survivors: frozenset[int]
    way: str = ""
    contributors: Contributors | None = None


def contributors_of(statements: Mapping[int, Statement]) -> Contributors:
    """Return for each kind of data the sites that contributed it."""
    return {kind: frozenset(s for s, said in statements.items() if kind in said.data) for kind in DataKind.kinds()}


def check_contributors(
    statements: Mapping[int, Statement], required: int, colluders: int, earlier: Iterable[Consent]
) -> Contributors:
    """Return who contributed what to a sum that may be opened.

    Args:
        statements: of every site in the sum, one's own among them.
        required: the largest of the job's `min_sites`, the protocol's minimum cohort and the site's own minimum.
        colluders: sites that may collude with the coordinator and lie about themselves.
        earlier: every sum over the same data that this site agreed to open.

    Guarantees: for each kind of data the contributors are none or enough; at least one kind has contributors; a kind that had
    contributors in an earlier sum has the same or none. Enough is `required` or the largest minimum that any site states, the
    larger; of validation data, which a small hospital may lack by the luck of its split, two more than may collude.

    Raises:
        NotOpened: anything else. Its text is the same for all reasons and may be sent to the coordinator; its detail names
            sites and is for this site's operator.
    """
    needed = dict.fromkeys(DataKind.kinds(), max(required, *(said.minimum for said in statements.values())))
    needed[DataKind.VALIDATION] = colluders + 2
    found = contributors_of(statements)
    reasons = [
        f"{len(sites)} sites contributed {kind.words}: {sorted(sites)}; {needed[kind]} are needed"
        for kind, sites in found.items()
        if 0 < len(sites) < needed[kind]
    ]
    if not any(found.values()):
        reasons.append("no site contributed data")
    for consent in earlier:
        for kind, before in (consent.contributors or {}).items():
            if before and found[kind] and found[kind] != before:
                reasons.append(
                    f"{kind.words} came from the sites {sorted(found[kind])}, and in an earlier sum over the same data from "
                    f"{sorted(before)}"
                )
    if reasons:
        raise NotOpened(required, detail="; ".join(dict.fromkeys(reasons)))
    return found


def check_survivors(survivors: frozenset[int], way: str, earlier: Iterable[Consent]) -> None:
    """Raise ProtectionError unless a sum over `survivors`, opened in this way, may follow the earlier ones.

    The difference of two sums over different sites says something about the sites in which they differ, see `may_follow`. Only
    those who open a sum know its contributors, so all sums over the same data must be opened by the same parties.
    """
    for consent in earlier:
        if consent.survivors != survivors:
            raise ProtectionError(
                "These sites are not those of an earlier sum over the same data: the difference of the two sums would show "
                "single sites.",
                remedy="Wait until the same sites are online again, or let all operators agree on a new cohort_epoch.",
            )
        if consent.way != way:
            raise ProtectionError(
                f"An earlier sum over the same data was opened by {consent.way!r}, this one would be by {way!r}. Whoever opens "
                "this one cannot know which sites contributed to that one.",
                remedy="Use the same protection and key holder, or let all operators agree on a new cohort_epoch.",
            )


def late_data(site: int, earlier: Iterable[Consent]) -> DataKind:
    """Return the kinds of data that other sites contributed to an earlier sum over the same data and this site did not.

    If the site contributed them now, no later sum could be opened. It leaves them out instead, until the next cohort epoch.
    """
    late = DataKind.NONE
    for consent in earlier:
        for kind, before in (consent.contributors or {}).items():
            if before and site not in before:
                late |= kind
    return late
