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
`privacy.protocol.contributors`; zeros in sessions with noise).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from salus.common.canonical import hash_parts, u32
from salus.privacy.masking.shamir import SHARE_BYTES
from salus.privacy.protocol.contributors import STATEMENT_BYTES
from salus.privacy.protocol.tables import KEY_BYTES, SIGNATURE_BYTES, wrong_length

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
            raise wrong_length("an advert", data)
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
