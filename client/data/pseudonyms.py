"""Pseudonyms: what stands for a patient or study everywhere outside the hospital's own files."""

import hashlib
import hmac

from salus.client.data.identity import normalised


def pseudonym(secret: bytes, kind: str, value: str) -> str:
    """Return the stable pseudonym of an identifier, 32 hex digits of HMAC-SHA256 under the site's secret.

    Args:
        kind: what is named, such as ``patient``; the same text has a different pseudonym for each kind.
        value: texts that differ only in what is insignificant have the same pseudonym, see `identity`.
    """
    return literal_pseudonym(secret, kind, normalised(value))


def literal_pseudonym(secret: bytes, kind: str, value: str) -> str:
    """Return the pseudonym of exactly this text, as versions before `identity` computed it."""
    return hmac.new(secret, f"{kind}\0{value}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:32]


def key_fingerprint(secret: bytes) -> str:
    """Return 16 hex digits that distinguish one pseudonym key from another and reveal nothing else about it."""
    return literal_pseudonym(secret, "pseudonym-key-fingerprint", "")[:16]
