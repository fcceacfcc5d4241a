"""The entries of a ledger and the chain that binds each one to all before it."""

from typing import Annotated, Literal

from pydantic import Field

from salus.common.canonical import hash_parts
from salus.common.errors import LedgerError
from salus.common.strict import Strict
from salus.privacy.dp.accounting import Release
from salus.privacy.protocol.head import HASH_BYTES, Head

FORMAT = 1  # of the ledger's file
NOTHING = bytes(HASH_BYTES)


class Reserve(Strict):
    """A job was accepted, and everything that it may cost was reserved for each of its patients.

    Args:
        job: the ledger's name of the job: the coordinator's id of it and the beginning of the signed job's hash.
        rounds: number of rounds; the job ends after the last one, or after the evaluation if it has one.
        patients: how many patients.
        salt: random, so that a signed head commits to patients without naming any.
        patients_sha256: SHA-256 over salt and their pseudonyms, ascending, joined by newlines.
        epsilon, delta: the job's guarantee.
    """

    kind: Literal["reserve"] = "reserve"
    at: str
    job: str
    dataset: str
    rounds: int
    mode: Literal["local", "distributed"]
    patients: Annotated[int, Field(ge=0)]
    salt: str
    patients_sha256: str
    releases: tuple[Release, ...]
    epsilon: float
    delta: float


class Commit(Strict):
    """Part of what was reserved is about to leave the site; written before it leaves."""

    kind: Literal["commit"] = "commit"
    at: str
    job: str
    round: int
    attempt: int
    release: Release


class Close(Strict):
    """A job has ended: what was reserved but never committed is given back, and nothing more may be sent for it."""

    kind: Literal["close"] = "close"
    at: str
    job: str
    refunded: tuple[Release, ...]


Entry = Reserve | Commit | Close


def entry_hash(previous: bytes, body: bytes) -> bytes:
    """Return the hash of an entry, as it is stored, that follows one with hash `previous`.

    The hash covers the stored bytes, never a new encoding of them, so that entries keep it when the format gains a key.
    """
    return hash_parts("salus/ledger/1", previous, body)


def check_chain(entries: list[tuple[bytes, bytes]]) -> Head:
    """Return the head of a chain of entries, as they are stored, and their hashes.

    Raises:
        LedgerError: an entry was changed, removed or inserted.
    """
    last = NOTHING
    for number, (body, stored) in enumerate(entries, start=1):
        last = entry_hash(last, body)
        if last != stored:
            raise LedgerError(
                f"Entry {number} of the ledger does not match the hash chain: it was changed, or an entry was added or removed.",
                remedy="Restore the latest copy of ledger.sqlite, and find out who changed it.",
            )
    return Head(len(entries), last)
