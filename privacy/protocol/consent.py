"""The consent to open a sum, the same in both secure sums: what a site checks, signs, remembers and accepts from others.

    survivors ──check──> consent on disk ──> signature (with noise: and the ledger's head) ──> all consents ──check──> open

A consent is a signature over bytes that name the survivors; each protection defines those bytes. It is on disk before the
signature exists, so a site that crashes in between never signs a second one.
"""

from collections.abc import Collection, Mapping

from salus.common.errors import ProtectionError
from salus.privacy.contribution import DataKind
from salus.privacy.protocol.contributors import Consent, Contributors, Statement, check_contributors, check_survivors
from salus.privacy.protocol.head import SIGNED_HEAD_BYTES, open_head, sign_head
from salus.privacy.protocol.parameters import thresholds
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.session import Session
from salus.privacy.protocol.signed import check_signed
from salus.privacy.protocol.tables import REMEDY, SIGNATURE_BYTES, read_table


class SiteConsent:
    """One site's part in the consent of one session.

    Args:
        way: how the sum is protected and who opens it, such as ``masking`` or ``encryption/2``.
        job_minimum: fewest sites that must contribute data, from the job.

    Raises:
        ProtectionError: the session is not over the whole roster that is pinned at this site.
    """

    def __init__(self, session: Session, party: SiteParty, way: str, job_minimum: int) -> None:
        if set(session.roster) != set(party.keys) or party.site not in party.keys:
            raise ProtectionError(
                "Expected a session over the whole pinned roster.", remedy="Install the newest roster."
            )
        self._session, self._me, self._way, self._job_minimum = session, party, way, job_minimum
        self.limits = thresholds(len(session.roster), noised=party.noised)

    def statement(self, data: DataKind) -> Statement:
        """Return what this site states about its vector; with noise, nobody needs to know whether a site has data."""
        return Statement() if self._me.noised else Statement(data, self._me.minimum_cohort)

    def check_count(self, count: int) -> None:
        """Raise ProtectionError for a sum over fewer sites than the protocol or this site's policy allows."""
        needed = max(self.limits.needed, self._me.minimum_cohort)
        if count < needed:
            raise ProtectionError(
                f"Expected a sum over at least {needed} sites, got {count}.", remedy="Wait for more sites."
            )

    def check_survivors(self, survivors: frozenset[int]) -> None:
        """Raise ProtectionError for too few survivors, a removed member or, without noise, other ones than in an earlier sum."""
        if gone := survivors & self._me.removed:
            raise ProtectionError(
                f"Site {min(gone)} was removed from the consortium since the job began.", remedy="Begin a new attempt."
            )
        self.check_count(len(survivors))
        if not self._me.noised:
            check_survivors(survivors, self._way, self._me.store.consents(self._me.scope))

    def contributors(self, said: Mapping[int, Statement]) -> Contributors | None:
        """Return who contributed which data to a sum that may be opened; None with noise, where that is not counted.

        Args:
            said: the statement of every site in the sum, including this site.

        Raises:
            NotOpened: too few sites contributed, or others than in an earlier sum; see `check_contributors`.
        """
        if self._me.noised:
            return None
        required = max(self.limits.minimum_cohort, self._me.minimum_cohort, self._job_minimum)
        return check_contributors(said, required, self.limits.colluders, self._me.store.consents(self._me.scope))

    def remember(self, session: bytes, survivors: frozenset[int], found: Contributors | None) -> None:
        """Store a consent on disk; raises ProtectionError if `session` has one already."""
        self._me.store.consent(session, Consent(survivors, self._way, found))

    def give(self, survivors: frozenset[int], covered: bytes, found: Contributors | None = None) -> bytes:
        """Store the consent, then sign it; with noise, the signed head of the privacy ledger follows the signature.

        Args:
            covered: the statement that the signature covers; it names the survivors.
            found: who contributed which data, where this site knows it.
        """
        session = self._session.id
        self.remember(session, survivors, found)
        consent = self._me.identity.sign_raw(covered)
        if self._me.head is None:
            return consent
        head = self._me.head()
        self._me.store.ledger_seen(self._me.site, head)
        return consent + sign_head(self._me.identity, session, self._me.site, head)

    def check_given(self, given: bytes, listed: Collection[int], covered: bytes) -> None:
        """Raise ProtectionError unless enough listed sites signed exactly what this site signed.

        Args:
            given: a table of site ids and replies of `give`.
            listed: the survivors that this site was shown.
            covered: the statement that this site signed; never one from the coordinator.
        """
        rows = read_table(given, SIGNATURE_BYTES + (SIGNED_HEAD_BYTES if self._me.noised else 0), "the consents")
        for site, row in rows.items():
            if site not in listed:
                raise ProtectionError(f"Site {site} consented but is not among the survivors.", remedy=REMEDY)
            check_signed(
                self._me.keys[site],
                row[:SIGNATURE_BYTES],
                covered,
                site=site,
                what="consent",
                why=f"it is forged, or the coordinator showed site {site} and site {self._me.site} different lists",
            )
            if self._me.noised and site != self._me.site:
                head = open_head(row[SIGNATURE_BYTES:], self._me.keys[site], self._session.id, site)
                self._me.store.ledger_seen(site, head)
        if len(rows) < self.limits.threshold:
            raise ProtectionError(
                f"Expected consents of {self.limits.threshold} sites, got {len(rows)}.", remedy="Wait for more sites."
            )
