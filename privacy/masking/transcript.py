"""The check of a masked sum's transcript by a third party."""

from collections.abc import Mapping
from typing import ClassVar

from salus.common.job import Job
from salus.privacy.masking.messages import Advert, consent_statement, masked_statement
from salus.privacy.protocol.session import ids
from salus.privacy.protocol.transcript import Entry, SessionCheck, numbers, wrong


class MaskedCheck(SessionCheck):
    """One session of masked sums; see `SessionCheck`."""

    ORDER: ClassVar[tuple[str, ...]] = ("advert", "shared", "masked", "survivors", "consent", "wrong-share", "sum")
    ONCE: ClassVar[tuple[str, ...]] = ("shared", "survivors", "sum")
    UNPROVEN: ClassVar[tuple[str, ...]] = (
        "that the coordinator recorded every session: the sites' own databases hold their consents",
        "what the sums contain: a site may have sent any vector, and no one can look behind a mask",
    )

    def __init__(self, entry: Entry, keys: Mapping[int, bytes], job: Job, document: bytes) -> None:
        super().__init__(entry, keys, job, document)
        self.adverts: set[int] = set()
        self.shared: frozenset[int] = frozenset()
        self.masked: set[int] = set()

    @property
    def sent(self) -> set[int]:
        """The sites that signed their participation; each may have spent privacy budget."""
        return self.adverts

    def take_own(self, entry: Entry) -> None:
        """Check an entry that only this protection has."""
        sid, kind = self.session.id, entry["kind"]
        if kind == "advert":
            advert = Advert(bytes.fromhex(entry["channel"]), bytes.fromhex(entry["mask"]), b"")
            self.check_signature(entry, advert.statement(sid, int(entry["site"])), "advert")
            self.adverts.add(int(entry["site"]))
        elif kind == "shared":
            self.shared = frozenset(numbers(entry["sites"]))
        elif kind == "masked":
            statement = masked_statement(sid, int(entry["site"]), ids(self.shared), bytes.fromhex(entry["sha256"]))
            self.check_signature(entry, statement, "masked vector")
            self.masked.add(int(entry["site"]))

    def consent_statement(self) -> bytes:
        """Return what a consent in this session covers."""
        return consent_statement(self.session.id, ids(self.survivors))

    def check_sum(self, summed: frozenset[int]) -> None:
        """Check that a sum over these sites was permitted."""
        if not summed == self.survivors == self.masked <= self.shared <= self.adverts:
            raise wrong("the sum is not over the sites that advertised, shared, masked and were announced")
        self.check_consents(summed)
