"""Which sites contributed data to a sum without noise, and when that sum may be opened.

If four of five sites send zeros, the sum is the fifth site's vector. So each site states from which kinds of its own data its
vector was computed; only the sites that decide about opening see this, never the coordinator. Before it agrees to open a
sum, a site counts these statements and compares them with those of every earlier sum over the same data.

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
    """One site's statement about its vector.

    Args:
        data: the kinds of its own data that the vector was computed from.
        minimum: the minimum number of contributing sites that its operator requires, 0 to 65535.
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
                f"The statement of site {site} about its data is not valid.",
                remedy="Install the same version of Salus at all sites.",
            )
        return cls(DataKind(data[0]), int.from_bytes(data[1:], "big"))


@dataclass(frozen=True)
class Consent:
    """A site's record of a sum that it agreed to open.

    Args:
        survivors: the sites in the sum.
        way: how the sum was protected and who opened it, such as ``masking`` or ``encryption/2``.
        contributors: which of them contributed which kind of data, as far as this site knows.
    """

    survivors: frozenset[int]
    way: str = ""
    contributors: Contributors | None = None


def contributors_of(statements: Mapping[int, Statement]) -> Contributors:
    """Return, for each kind of data, the sites that contributed it."""
    return {kind: frozenset(s for s, said in statements.items() if kind in said.data) for kind in DataKind.kinds()}


def check_contributors(
    statements: Mapping[int, Statement], required: int, colluders: int, earlier: Iterable[Consent]
) -> Contributors:
    """Return who contributed which data to a sum that may be opened.

    Args:
        statements: the statement of every site in the sum, including this site.
        required: the maximum of the job's `min_sites`, the protocol's minimum cohort and the site's own minimum.
        colluders: number of sites that may collude with the coordinator and make false statements.
        earlier: all sums over the same data that this site agreed to open.

    Guarantees: each kind of data has no contributors or enough of them; at least one kind has contributors; a kind that had
    contributors in an earlier sum has the same ones or none. Enough is the larger of `required` and the largest minimum that any
    site states; for validation data, which a small hospital may lack by chance, it is two more than `colluders`.

    Raises:
        NotOpened: otherwise. The message is the same for all reasons and may be sent to the coordinator; the detail names
            sites and is for this site's operator only.
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

    The difference between two sums over different sites reveals something about the sites in which they differ; see
    `may_follow`. Only those who open a sum know its contributors, so the same parties must open all sums over the
    same data.
    """
    for consent in earlier:
        if consent.survivors != survivors:
            raise ProtectionError(
                "These are other sites than in an earlier sum over the same data: the difference of the two sums would expose "
                "single sites.",
                remedy="Wait until the same sites are online again, or let all operators agree on a new cohort_epoch.",
            )
        if consent.way != way:
            raise ProtectionError(
                f"An earlier sum over the same data was opened by {consent.way!r}, but this one by {way!r}. Those who open "
                "this sum cannot know which sites contributed to the earlier one.",
                remedy="Use the same protection and key holder, or let all operators agree on a new cohort_epoch.",
            )


def late_data(site: int, earlier: Iterable[Consent]) -> DataKind:
    """Return the kinds of data that other sites, but not this one, contributed to an earlier sum over the same data.

    If this site contributed them now, no later sum could be opened. It omits them until the next cohort epoch.
    """
    late = DataKind.NONE
    for consent in earlier:
        for kind, before in (consent.contributors or {}).items():
            if before and site not in before:
                late |= kind
    return late
