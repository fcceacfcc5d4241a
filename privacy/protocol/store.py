"""A site's state that survives a crash: the sessions that it opened and its one consent in each."""

from collections.abc import Mapping
from typing import Protocol

from salus.common.errors import ProtectionError, Refused
from salus.privacy.protocol.contributors import Consent
from salus.privacy.protocol.head import Head, went_back


class SessionStore(Protocol):
    """Durable memory of one site; everything is on disk before a method returns."""

    def open_session(self, session: bytes, scope: str) -> None:
        """Store a session and its scope; raises ProtectionError if it was opened before."""

    def consent(self, session: bytes, consent: Consent) -> None:
        """Store the consent of a session; raises ProtectionError if one was already given."""

    def consents(self, scope: str) -> list[Consent]:
        """Return every consent given in a scope, for all jobs: a coordinator can sign any number of jobs."""

    def ask(self, scope: str, questions: Mapping[str, str], *, remember: bool = True) -> None:
        """Remember what a job without noise asked; raises Refused if the same quantity was asked about in another way.

        Args:
            remember: False only compares, for a job that may never run.
        """

    def ledger_head(self, site: int) -> Head | None:
        """Return the newest ledger head that was remembered of a site, or None."""

    def ledger_seen(self, site: int, head: Head) -> None:
        """Remember the newest ledger head of a site; raises ProtectionError if that ledger was rolled back."""


class MemoryStore:
    """An in-memory store for virtual sites, whose state ends with their process."""

    def __init__(self) -> None:
        self._opened: dict[bytes, str] = {}
        self._consents: dict[bytes, Consent] = {}
        self._heads: dict[int, Head] = {}
        self._questions: dict[tuple[str, str], str] = {}

    def open_session(self, session: bytes, scope: str) -> None:
        """Remember a session."""
        if session in self._opened:
            raise opened_before()
        self._opened[session] = scope

    def consent(self, session: bytes, consent: Consent) -> None:
        """Remember a consent."""
        if session in self._consents:
            raise consented_before()
        self._consents[session] = consent

    def consents(self, scope: str) -> list[Consent]:
        """Return the consents of a scope."""
        return [consent for session, consent in self._consents.items() if self._opened.get(session) == scope]

    def ask(self, scope: str, questions: Mapping[str, str], *, remember: bool = True) -> None:
        """Remember questions."""
        for name, question in questions.items():
            if self._questions.get((scope, name), question) != question:
                raise asked_before(name)
        if remember:
            self._questions |= {(scope, name): question for name, question in questions.items()}

    def ledger_head(self, site: int) -> Head | None:
        """Return a remembered head."""
        return self._heads.get(site)

    def ledger_seen(self, site: int, head: Head) -> None:
        """Remember a head."""
        known = self._heads.get(site)
        if known is not None and not head.follows(known):
            raise went_back(site, known, head)
        self._heads[site] = head


def opened_before() -> ProtectionError:
    """Return the error for a session that is opened a second time."""
    return ProtectionError("This session was opened before.", remedy="Start a new attempt; a session is used once.")


def asked_before(name: str) -> Refused:
    """Return the error for a second question about one quantity."""
    return Refused(
        f"This site has answered another question about the same data ({name}) in this cohort epoch. Without noise, two such "
        "answers can be subtracted to expose one patient or one site.",
        remedy="Ask exactly as before, use noise, or let all operators agree on a new cohort_epoch.",
    )


def consented_before() -> ProtectionError:
    """Return the error for a second consent."""
    return ProtectionError(
        "A consent was already given in this session.",
        remedy="The coordinator asked twice; stop the job and show the transcript to the consortium.",
    )
