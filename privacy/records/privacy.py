"""The privacy record of a finished job: its card, each site's signed ledger head, and which transcript they come from."""

import hashlib
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from salus.common.errors import PackageError, ProtectionError
from salus.common.identity import unhex
from salus.common.job import Job
from salus.common.roster import MAX_SITES, HexKey, Roster, SiteId
from salus.common.strict import Strict
from salus.privacy.protection import protection_of
from salus.privacy.protocol.head import SIGNED_HEAD_BYTES, Head, open_head
from salus.privacy.protocol.transcript import Verified
from salus.privacy.records.card import PrivacyCard, privacy_card

NO_LEDGER = "without noise no privacy is spent, and the ledgers sign nothing"


class LedgerHead(Strict):
    """The newest head of a site's ledger that it signed in this job.

    Args:
        session: in which it was signed.
        head: number of entries, hash of the last one, and the site's signature.
    """

    site: SiteId
    session: HexKey
    head: Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * SIGNED_HEAD_BYTES}}}$")]

    def opened(self, roster: Roster) -> Head:
        """Return the head after checking its signature; raises PackageError."""
        keys = roster.keys()
        try:
            return open_head(unhex(self.head), keys[self.site], unhex(self.session), self.site)
        except (KeyError, ProtectionError):
            raise PackageError(
                f"The package is not valid: the ledger head of site {self.site} is not signed by that site.",
                remedy="Ask the coordinator for the original package.",
            ) from None


class TranscriptLine(Strict):
    """The transcript of a job.

    Args:
        included: whether the package has it; a very large one is named only by its hash.
    """

    size: Annotated[int, Field(ge=0)]
    sha256: HexKey
    included: bool


class PrivacyRecord(Strict):
    """What is known about the privacy of a model's patients, and from what.

    Args:
        format: version of this format.
        transcript: None for a protection that keeps no transcript.
    """

    newest_format: ClassVar[int] = 1

    format: Literal[1] = 1
    card: PrivacyCard
    heads: Annotated[tuple[LedgerHead, ...], Field(max_length=MAX_SITES)] = ()
    transcript: TranscriptLine | None = None


def privacy_record(
    job: Job, roster: Roster, verified: Verified | None, transcript: bytes | None, *, included: bool
) -> PrivacyRecord:
    """Return the record of a finished job.

    Args:
        verified, transcript: the verified transcript and its bytes; None for a protection that keeps none.
        included: whether a package holds the transcript itself.
    """
    counted = verified is not None and protection_of(job).transcript
    sent = verified.sent if verified is not None and counted else None
    heads = {} if verified is None else verified.heads
    return PrivacyRecord(
        card=privacy_card(job, sent, roster.names()),
        heads=tuple(
            LedgerHead(site=site, session=session.hex(), head=signed.hex())
            for site, (signed, session) in sorted(heads.items())
        ),
        transcript=None
        if transcript is None
        else TranscriptLine(size=len(transcript), sha256=hashlib.sha256(transcript).hexdigest(), included=included),
    )


def without_head(record: PrivacyRecord) -> list[str]:
    """Return the names of the sites that sent vectors under noise and of which there is no ledger head."""
    if record.card.mode == "none":
        return []
    headed = {line.site for line in record.heads}
    return [row.name for row in record.card.sites if row.attempts and row.site not in headed]
