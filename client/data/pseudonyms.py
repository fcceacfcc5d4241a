"""Pseudonyms: what stands for a patient or study everywhere outside the hospital's own files."""

import hashlib
import hmac


def pseudonym(secret: bytes, kind: str, value: str) -> str:
    """Return the stable pseudonym of an identifier, 32 hex digits of HMAC-SHA256 under the site's secret.

    Args:
        kind: what is named, such as ``patient``; the same text has a different pseudonym for each kind.
    """
    return hmac.new(secret, f"{kind}\0{value}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:32]


def key_fingerprint(secret: bytes) -> str:
    """Return 16 hex digits that distinguish one pseudonym key from another and reveal nothing else about it."""
    return pseudonym(secret, "pseudonym-key-fingerprint", "")[:16]
