"""The transcript of a session and its verification by a third party: the signatures, and whether the sum was permitted.

An entry is plain data; vectors appear only as hashes, so a transcript reveals no more than the network traffic. A verifier
needs the transcript and the roster's keys, nothing secret.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from salus.common.errors import IdentityError, JobError, ProtectionError
from salus.common.identity import verify_raw
from salus.common.job import Job, job_from_canonical
from salus.privacy.contribution import Kind
from salus.privacy.protocol.head import Head, open_head
from salus.privacy.protocol.parameters import may_follow, thresholds
from salus.privacy.protocol.session import Session, manifest_hash

Entry = Mapping[str, Any]


class Recorder(Protocol):
    """Takes entries of a transcript."""

    def __call__(self, kind: str, **fields: Any) -> None:
        """Record an entry."""


def no_record(kind: str, **fields: Any) -> None:
    """Record nothing."""


KINDS: tuple[Kind, ...] = ("train", "evaluate", "measure")


class SessionCheck:
    """One session of protected sums: its entries, checked in their order; each protection has a subclass.

    Args:
        entry: the entry that opens the session.
        keys: Ed25519 keys of the whole roster with which the job began, by site id.
        job: of the transcript; `document` are its signed bytes.
    """

    ORDER: ClassVar[tuple[str, ...]]  # the kinds of entries in the order of the protocol
    ONCE: ClassVar[tuple[str, ...]]  # those that occur once
    UNPROVEN: ClassVar[tuple[str, ...]]  # sentences on what such a transcript cannot prove

    def __init__(self, entry: Entry, keys: Mapping[int, bytes], job: Job, document: bytes) -> None:
        self.session = Session(
            str(entry["job"]), int(entry["round"]), int(entry["attempt"]), bytes.fromhex(entry["manifest"]),
            bytes.fromhex(entry["model"]), tuple(numbers(entry["roster"])),
        )  # fmt: skip
        if self.session.id.hex() != entry["session"]:
            raise wrong("the session id does not match its job, round, attempt, model and roster")
        if set(self.session.roster) != set(keys):
            raise wrong("the session's roster is not that of the job")
        self.keys, self.job = keys, job
        self.kind = self._kind(entry, document)
        self.noised = job.privacy.noised
        self.limits = thresholds(len(keys), noised=self.noised)
        self.heads: dict[int, Head] = {}
        self.signed_heads: dict[int, bytes] = {}
        self.consents: set[int] = set()
        self.survivors: frozenset[int] = frozenset()
        self.place = -1
        self.summed = False

    @property
    def sent(self) -> set[int]:
        """The sites that signed their participation; each may have spent privacy budget."""
        raise NotImplementedError

    def take(self, entry: Entry) -> None:
        """Check the next entry; kinds come in the protocol's order, and an entry that occurs once must not be repeated."""
        kind = entry["kind"]
        if kind not in self.ORDER:
            raise wrong(f"an entry of unknown kind {str(kind)[:40]!r}")
        place = self.ORDER.index(kind)
        if place < self.place or (place == self.place and kind in self.ONCE):
            raise wrong(f"the entry {kind!r} is repeated or out of order")
        self.place = place
        if kind == "survivors":
            self.survivors = frozenset(numbers(entry["sites"]))
        elif kind == "consent":
            self.check_signature(entry, self.consent_statement(), "consent")
            site = int(entry["site"])
            if self.noised:
                signed = bytes.fromhex(entry["ledger"])
                self.heads[site] = open_head(signed, self.keys[site], self.session.id, site)
                self.signed_heads[site] = signed
            self.consents.add(site)
        elif kind == "sum":
            self.check_sum(frozenset(numbers(entry["sites"])))
            self.summed = True
        else:
            self.take_own(entry)

    def take_own(self, entry: Entry) -> None:
        """Check an entry that only this protection has."""
        raise NotImplementedError

    def consent_statement(self) -> bytes:
        """Return what a consent in this session covers."""
        raise NotImplementedError

    def check_sum(self, summed: frozenset[int]) -> None:
        """Check that a sum over these sites was permitted."""
        raise NotImplementedError

    def check_consents(self, summed: frozenset[int]) -> None:
        """Check that a sum is over enough sites and that enough of them consented to it."""
        if len(summed) < self.limits.needed or len(self.consents & summed) < self.limits.threshold:
            raise wrong(
                f"the sum is over {len(summed)} sites with {len(self.consents & summed)} consents, where "
                f"{self.limits.needed} and {self.limits.threshold} are needed"
            )

    def check_signature(self, entry: Entry, statement: bytes, what: str) -> None:
        """Check that the entry's site signed `statement`."""
        site = int(entry["site"])
        try:
            verify_raw(self.keys[site], bytes.fromhex(entry["signature"]), statement, what=what, who=f"site {site}")
        except (IdentityError, KeyError):
            raise wrong(f"the {what} of site {site} is not signed by that site for this session") from None

    def _kind(self, entry: Entry, document: bytes) -> Kind:
        """Return what the session was for; its manifest must be that of the transcript's job."""
        sizes = int(entry["parameters"]), int(entry["statistics"])
        for kind in KINDS:
            if manifest_hash(document, kind, *sizes) == self.session.manifest_hash:
                return kind
        raise wrong("a session belongs to another job than the transcript's")


@dataclass(frozen=True)
class Verified:
    """The results of verifying a transcript.

    Args:
        job: the job of the sums; the sites' signatures cover it.
        job_id: of its submission; empty without a session.
        sums: one line per finished sum: round, attempt, kind, sites, consents.
        sent: for each site, how many vectors of each kind it signed, including those of failed attempts.
        heads: for each site the newest head of its ledger that it signed, 104 bytes, and the session's id; empty without noise.
        evaluated: SHA-256 of the model that the sites evaluated last; None if there is no such sum.
    """

    job: Job
    job_id: str
    sums: list[dict[str, object]]
    sent: dict[int, dict[Kind, int]]
    heads: dict[int, tuple[bytes, bytes]]
    evaluated: bytes | None


def verify_transcript(entries: Iterable[Entry], keys: Mapping[int, bytes], kind: type[SessionCheck]) -> Verified:
    """Check the transcript of a job and return what it proves.

    Args:
        keys: Ed25519 keys of the whole roster with which the job began, by site id.
        kind: checks the sessions of the job's protection.

    Raises:
        ProtectionError: a signature, a threshold, a cohort, a ledger or an order that does not hold; the session is named.
    """
    sessions, job = _read(entries, keys, kind)
    if len({check.session.id for check in sessions}) != len(sessions):
        raise wrong("a session is repeated")
    if len({check.session.job_id for check in sessions}) > 1:
        raise wrong("it mixes several jobs")
    _check_order(sessions)
    sums: list[dict[str, object]] = [
        {
            "round": check.session.round,
            "attempt": check.session.attempt,
            "kind": check.kind,
            "sites": sorted(check.survivors),
            "consents": len(check.consents),
        }
        for check in sessions
        if check.summed
    ]
    sent: dict[int, dict[Kind, int]] = {site: dict.fromkeys(KINDS, 0) for site in keys}
    for check in sessions:
        for site in check.sent:
            sent[site][check.kind] += 1
    heads = {site: (signed, check.session.id) for check in sessions for site, signed in check.signed_heads.items()}
    evaluated = [check.session.model_hash for check in sessions if check.summed and check.kind == "evaluate"]
    return Verified(
        job, sessions[0].session.job_id if sessions else "", sums, sent, heads, evaluated[-1] if evaluated else None
    )


def _read(
    entries: Iterable[Entry], keys: Mapping[int, bytes], kind: type[SessionCheck]
) -> tuple[list[SessionCheck], Job]:
    """Return the sessions, each checked by itself, and the signed job."""
    sessions: list[SessionCheck] = []
    document = b""
    job: Job | None = None
    for entry in entries:
        try:
            if entry["kind"] == "job":
                given = str(entry["document"]).encode()
                if document and given != document:
                    raise wrong("it mixes several jobs")
                document, job = given, job or job_from_canonical(given)
            elif job is None:
                raise wrong("it does not begin with its job")
            elif entry["kind"] == "session":
                sessions.append(kind(entry, keys, job, document))
            elif not sessions:
                raise wrong("it does not begin with a session")
            else:
                sessions[-1].take(entry)
        except (KeyError, ValueError, TypeError, OverflowError):
            raise wrong("an entry is damaged") from None
        except JobError:
            raise wrong("its job is damaged") from None
    if job is None:
        raise wrong("it does not begin with its job")
    return sessions, job


def _check_order(sessions: Sequence[SessionCheck]) -> None:
    """Check what holds between sessions: the cohort without noise, the ledgers with noise."""
    # With t consents, a sum could be made, whether or not the coordinator recorded it.
    could = [check for check in sessions if len(check.consents) >= check.limits.threshold]
    newest: dict[int, Head] = {}
    for number, check in enumerate(could):
        if not check.noised and not may_follow((earlier.survivors for earlier in could[:number]), check.survivors):
            raise wrong(f"the sum of round {check.session.round} is over other sites than an earlier sum")
    for check in sessions:
        for site, head in check.heads.items():
            if site in newest and not head.follows(newest[site]):
                raise wrong(f"the privacy ledger of site {site} was rolled back in round {check.session.round}")
            newest[site] = head


def wrong(what: str) -> ProtectionError:
    """Return the error for an invalid transcript."""
    return ProtectionError(
        f"The transcript is not valid: {what}.", remedy="Ask the coordinator and the sites for their own copies."
    )


def numbers(value: Any) -> list[int]:
    """Return a list of whole numbers; raises ValueError for anything else."""
    if not isinstance(value, list) or any(type(item) is not int for item in value):
        raise ValueError
    return value
