"""The check of an encrypted sum's transcript by a third party: signatures, order, cohort, consents and ledgers.

The coordinator records of each upload its key, the root of its sealed chunks and the site's signature over both; a consent
covers the list of all of them. The key holder's decryption is not signed, so it cannot be verified.
"""

from collections.abc import Mapping
from typing import ClassVar

from salus.common.job import Job
from salus.common.registry import settings_of
from salus.privacy.encryption.messages import consent_statement, root_statement
from salus.privacy.encryption.settings import EncryptionSettings
from salus.privacy.protocol.tables import write_table
from salus.privacy.protocol.transcript import Entry, SessionCheck, wrong


class EncryptedCheck(SessionCheck):
    """One session of encrypted sums; see `SessionCheck`."""

    ORDER: ClassVar[tuple[str, ...]] = ("uploaded", "survivors", "consent", "sum")
    ONCE: ClassVar[tuple[str, ...]] = ("survivors", "sum")
    UNPROVEN: ClassVar[tuple[str, ...]] = (
        "that the numbers the coordinator used are the sum: the key holder's decryption is not signed, so the two could agree on "
        "others",
        "that the key holder decrypted nothing else: it can read every update that the coordinator passes to it",
        "which sites began an upload and did not finish it; the privacy below is the upper bound from the job's plan",
        "that the coordinator recorded every session: the sites' own databases hold their consents",
        "what the sums contain: a site may have sent any vector",
    )

    def __init__(self, entry: Entry, keys: Mapping[int, bytes], job: Job, document: bytes) -> None:
        super().__init__(entry, keys, job, document)
        self._rows: dict[int, bytes] = {}

    def take_own(self, entry: Entry) -> None:
        """Check an upload: the site's signature over its key and the root of its chunks."""
        site = int(entry["site"])
        if site in self._rows:
            raise wrong(f"the upload of site {site} is repeated")
        channel, root = bytes.fromhex(entry["channel"]), bytes.fromhex(entry["root"])
        self.check_signature(entry, root_statement(self.session.id, site, channel, root), "upload")
        self._rows[site] = channel + root + bytes.fromhex(entry["signature"])

    @property
    def sent(self) -> set[int]:
        """The sites whose complete upload is signed."""
        return set(self._rows)

    def consent_statement(self) -> bytes:
        """Return what a consent covers: the list of all uploads."""
        return consent_statement(self.session.id, write_table(self._rows))

    def check_sum(self, summed: frozenset[int]) -> None:
        """Check that a sum over these sites was allowed, with the key holder's own consent."""
        if not summed == self.survivors == set(self._rows):
            raise wrong("the sum is not over the sites that uploaded and were announced")
        if settings_of(self.job.aggregation, EncryptionSettings).key_holder not in self.consents:
            raise wrong("the key holder did not consent to the sum")
        self.check_consents(summed)
