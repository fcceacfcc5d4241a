"""Keys of one session: X25519 agreements and the keys derived from them, each bound to the session and its purpose.

``HKDF(ikm, info...)`` is HKDF-SHA256 (RFC 5869), 32 bytes, salt = session id, info = ``H(info...)``.
"""

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from salus.common.canonical import hash_parts
from salus.common.errors import ProtectionError


def public_of(private: bytes) -> bytes:
    """Return the X25519 public key of a private one, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def private_key(raw: bytes) -> X25519PrivateKey:
    """Return a private key to agree with; reading one costs as much as an agreement, so read it once for many."""
    return X25519PrivateKey.from_private_bytes(raw)


def agree(private: X25519PrivateKey, public: bytes, *, who: str) -> bytes:
    """Return the X25519 agreement, 32 bytes; raises ProtectionError naming `who` for a public key of low order."""
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ProtectionError(f"The X25519 key of {who} has low order.", remedy="Leave that site out.") from None


def derive(session: bytes, material: bytes, *info: bytes | str) -> bytes:
    """Return HKDF-SHA256 of `material` for this session and purpose, 32 bytes."""
    return HKDF(hashes.SHA256(), 32, salt=session, info=hash_parts(*info)).derive(material)
