"""Keys of masks, and the channel in which one site sends its shares to another."""

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from salus.common.canonical import hash_parts, u32
from salus.common.errors import ProtectionError
from salus.privacy.protocol.keys import agree, derive
from salus.privacy.protocol.secret import Secret

NONCE = bytes(12)  # each share key encrypts one message only


def self_mask_key(session: bytes, seed: bytes, site: int) -> bytes:
    """Return the key of a site's own mask."""
    return derive(session, seed, "self", u32(site))


def pair_mask_key(session: bytes, private: X25519PrivateKey, public: bytes, site: int, peer: int) -> bytes:
    """Return the key of the mask that two sites share, the same from both sides."""
    material = agree(private, public, who=f"site {peer}")
    return derive(session, material, "pair", u32(min(site, peer)), u32(max(site, peer)))


@dataclass(frozen=True)
class ShareChannel:
    """The one-message channel from one site to another: ChaCha20-Poly1305 under their channel keys.

    Args:
        adverts_hash: of all advertised keys, so that two sites that were shown different keys cannot communicate.
    """

    session: bytes
    sender: int
    receiver: int
    adverts_hash: bytes

    def _cipher(self, agreed: Secret) -> ChaCha20Poly1305:
        key = derive(self.session, agreed.reveal(), "share", u32(self.sender), u32(self.receiver))
        return ChaCha20Poly1305(key)

    def _associated(self) -> bytes:
        return hash_parts(self.session, u32(self.sender), u32(self.receiver), self.adverts_hash)

    def seal(self, agreed: Secret, message: bytes) -> bytes:
        """Encrypt at the sender, who agreed on this material with the receiver (`agree`)."""
        return self._cipher(agreed).encrypt(NONCE, message, self._associated())

    def open(self, agreed: Secret, box: bytes) -> bytes:
        """Decrypt at the receiver; raises ProtectionError naming the sender if it does not authenticate."""
        try:
            return self._cipher(agreed).decrypt(NONCE, box, self._associated())
        except InvalidTag:
            raise ProtectionError(
                f"The share from site {self.sender} to site {self.receiver} does not authenticate: it was changed, swapped, or "
                "the two sites were shown different keys.",
                remedy="The coordinator or a site is faulty; see the transcript.",
            ) from None
