"""The head of a site's ledger, signed with each consent, so that others detect a ledger that was rolled back.

The head binds the number of entries and the last entry's hash. A site whose ledger was restored from an old backup would
sign a shorter ledger than others have seen, in the next sum.
"""

from dataclasses import dataclass

from salus.common.canonical import hash_parts, u32, u64
from salus.common.errors import IdentityError, ProtectionError
from salus.common.identity import Identity, verify_raw

HASH_BYTES, SIGNATURE_BYTES = 32, 64
SIGNED_HEAD_BYTES = 8 + HASH_BYTES + SIGNATURE_BYTES


@dataclass(frozen=True)
class Head:
    """The end of a ledger.

    Args:
        length: number of entries.
        last: hash of the last entry, 32 bytes; zeros for an empty ledger.
    """

    length: int
    last: bytes

    def digest(self) -> bytes:
        """Return the head, 32 bytes."""
        return hash_parts("salus/ledger/head", u64(self.length), self.last)

    def follows(self, earlier: "Head") -> bool:
        """Return whether a ledger with this head can be a later state of the one with the head `earlier`."""
        return self.length > earlier.length or self == earlier


def head_statement(session: bytes, site: int, head: Head) -> bytes:
    """Return the bytes that a site signs: ``H("ledger", session, u32(site), head)``."""
    return hash_parts("ledger", session, u32(site), head.digest())


def sign_head(identity: Identity, session: bytes, site: int, head: Head) -> bytes:
    """Return length, last hash and signature, 104 bytes."""
    return u64(head.length) + head.last + identity.sign_raw(head_statement(session, site, head))


def open_head(data: bytes, key: bytes, session: bytes, site: int) -> Head:
    """Return the head that a site signed in this session.

    Raises:
        ProtectionError: not 104 bytes long, or not signed by this site for this session.
    """
    if len(data) != SIGNED_HEAD_BYTES:
        raise ProtectionError(
            f"Expected the signed ledger head of site {site}.", remedy="Every site must keep a privacy ledger."
        )
    if data[0] >= 0x80:
        raise ProtectionError(
            f"The ledger head of site {site} has an impossible number of entries.",
            remedy="It is left out of this round.",
        )
    head = Head(int.from_bytes(data[:8], "big"), data[8 : 8 + HASH_BYTES])
    try:
        verify_raw(key, data[8 + HASH_BYTES :], head_statement(session, site, head), what="ledger head", who="")
    except IdentityError:
        raise ProtectionError(
            f"The ledger head of site {site} is not signed by that site for this session.",
            remedy="It is left out of this round.",
        ) from None
    return head


def went_back(site: int, known: Head, now: Head) -> ProtectionError:
    """Return the error for a ledger that is shorter than, or different from, one that was signed before."""
    return ProtectionError(
        f"The privacy ledger of site {site} was rolled back: it had {known.length} entries and now has {now.length}.",
        remedy="Its operator must restore the latest copy of ledger.sqlite; an older copy does not include all spent budget.",
    )
