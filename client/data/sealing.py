"""Text that may name a person, such as a path, sealed before it is stored: AES-256-GCM under a key of the site's secret."""

import base64
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from salus.common.errors import DataError

NONCE_BYTES = 12


class Sealer:
    """Seals and opens short texts.

    Args:
        secret: the site's secret, at least 16 bytes.
        purpose: what is sealed; texts sealed for another purpose do not open.
    """

    def __init__(self, secret: bytes, purpose: str) -> None:
        key = HKDF(hashes.SHA256(), 32, None, f"salus/{purpose}/1".encode()).derive(secret)
        self._cipher = AESGCM(key)

    def seal(self, text: str) -> str:
        """Return a sealed text; the same text is sealed differently each time, so equal texts cannot be recognised."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, text.encode("utf-8", "surrogateescape"), None)
        return base64.b64encode(nonce + sealed).decode()

    def open(self, sealed: str) -> str:
        """Return the text; raises DataError if it was sealed by another site's secret or changed."""
        try:
            data = base64.b64decode(sealed, validate=True)
            plain = self._cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], None)
        except (ValueError, InvalidTag):
            raise DataError(
                "The catalogue cannot be opened with this site's pseudonym key.",
                remedy="Restore keys/pseudonym.key from the backup of this site.",
            ) from None
        return plain.decode("utf-8", "surrogateescape")
