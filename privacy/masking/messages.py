"""The five messages in bytes: fixed lengths, strict readers; only keys, boxes and signatures differ between sites.

request 2   advertised keys: (u32 id, channel 32, mask 32, signature 64) each, ids ascending
request 3   boxes for one site: (u32 sender, box 151) each, senders ascending
request 4   survivors: u32 each, ascending
request 5   consents: (u32 id, signature 64) each, ids ascending
reply 1     channel 32, mask 32, signature 64
reply 2     (u32 receiver, box 151) each, receivers ascending
reply 3     signature 64, then the masked words, little-endian
reply 4     signature 64
reply 5     66 bytes per survivor (self seed), then 66 bytes per dropped site (mask key), ids ascending

A box holds, under ChaCha20-Poly1305: a share of the self seed 66, a share of the mask key 66, a statement 3 (see
`privacy.contributors`; zeros in sessions with noise).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from salus.common.canonical import hash_parts, u32
from salus.common.errors import ProtectionError
from salus.privacy.contributors import STATEMENT_BYTES
from salus.privacy.masking.shamir import SHARE_BYTES

KEY_BYTES = 32
SIGNATURE_BYTES = 64
BOX_BYTES = 2 * SHARE_BYTES + STATEMENT_BYTES + 16


@dataclass(frozen=True)
class Advert:
    """A site's two public keys of one session, signed."""

    channel: bytes
    mask: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """Return reply 1."""
        return self.channel + self.mask + self.signature

    @classmethod
    def from_bytes(cls, data: bytes) -> "Advert":
        """Read reply 1."""
        if len(data) != 2 * KEY_BYTES + SIGNATURE_BYTES:
            raise _bad("an advert", data)
        return cls(data[:32], data[32:64], data[64:])

    def statement(self, session: bytes, site: int) -> bytes:
        """Return the statement that the signature covers."""
        return hash_parts("advertise", session, u32(site), self.channel, self.mask)


def adverts_hash(adverts: Mapping[int, Advert]) -> bytes:
    """Return the hash of all advertised keys, ids ascending."""
    return hash_parts("adverts", *(u32(site) + adverts[site].channel + adverts[site].mask for site in sorted(adverts)))


def masked_statement(session: bytes, site: int, shared: bytes, digest: bytes) -> bytes:
    """Return what the signature of reply 3 covers; `shared` is ids(U2), `digest` SHA-256 of the masked words."""
    return hash_parts("masked", session, u32(site), shared, digest)


def consent_statement(session: bytes, survivors: bytes) -> bytes:
    """Return what a consent covers; `survivors` is ids(U3)."""
    return hash_parts("consent", session, survivors)


def write_table(rows: Mapping[int, bytes]) -> bytes:
    """Return u32 id and value of each row, ids ascending."""
    return b"".join(u32(site) + rows[site] for site in sorted(rows))


def read_table(data: bytes, width: int, what: str) -> dict[int, bytes]:
    """Read rows of an id and `width` bytes; ids must ascend, so that none is repeated."""
    step = 4 + width
    if len(data) % step:
        raise _bad(what, data)
    rows: dict[int, bytes] = {}
    last = 0
    for start in range(0, len(data), step):
        site = int.from_bytes(data[start : start + 4], "big")
        if site <= last:
            raise ProtectionError(
                f"Expected ascending site ids in {what}; one is repeated or out of order.", remedy=REMEDY
            )
        rows[site] = data[start + 4 : start + step]
        last = site
    return rows


def write_ids(sites: Iterable[int]) -> bytes:
    """Return ids, ascending."""
    return write_table(dict.fromkeys(sites, b""))


def read_ids(data: bytes, what: str) -> frozenset[int]:
    """Read ids, ascending."""
    return frozenset(read_table(data, 0, what))


REMEDY = "The coordinator is faulty or malicious; do not continue with this round."


def _bad(what: str, data: bytes) -> ProtectionError:
    return ProtectionError(f"Expected {what}, got {len(data)} bytes in another format.", remedy=REMEDY)
