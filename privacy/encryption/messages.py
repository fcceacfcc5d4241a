"""The messages of an encrypted sum and the signed statements; every statement includes the session (`privacy.protocol.session`).

reply 1     of a site: its X25519 key 32, signature 64; of the key holder also: the public BFV key
request 2   key holder's X25519 key 32, signature 64 over both its keys, public BFV key; then first chunk u32, count u32
request 3.. first chunk u32, count u32
reply 2..   (u32 length, sealed chunk) per chunk; after the last one: signature 64 over the hashes of all chunks
            a chunk is a ciphertext; a statement 3 precedes that of chunk 0, see `privacy.protocol.contributors`
consent     request: per site id u32, key 32, root 32, signature 64; reply: signature 64, for noised jobs the ledger head
decrypt     request to the key holder: list, consents, hashes per site; then chunks, each with all sites' sealed ciphertexts
"""

import hashlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from salus.common.canonical import hash_parts, u32
from salus.common.errors import ProtectionError
from salus.privacy.protocol.keys import agree, derive, private_key
from salus.privacy.protocol.tables import KEY_BYTES, REMEDY, SIGNATURE_BYTES

HASH_BYTES = 32
ROW_BYTES = KEY_BYTES + HASH_BYTES + SIGNATURE_BYTES
WHY = "it is forged, or for another job, round, model or list"  # where a signature does not verify
NONCE = bytes(12)  # every chunk has its own key


def key_statement(session: bytes, site: int, channel: bytes, public_key: bytes) -> bytes:
    """Return the statement that a site signs about its keys; `public_key` is empty except for the key holder."""
    return hash_parts("encrypted/key", session, u32(site), channel, hashlib.sha256(public_key).digest())


def root_statement(session: bytes, site: int, channel: bytes, root: bytes) -> bytes:
    """Return the statement that a site signs about its upload."""
    return hash_parts("encrypted/root", session, u32(site), channel, root)


def consent_statement(session: bytes, table: bytes) -> bytes:
    """Return what a consent covers: the list of sites with their roots."""
    return hash_parts("encrypted/consent", session, table)


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Return the root of an upload from the hashes of its sealed chunks."""
    return hash_parts("encrypted/chunks", *hashes)


class Box:
    """The channel from one site to the key holder: each chunk sealed under its own key.

    BFV alone is malleable: a site that colludes with the coordinator could send a crafted ciphertext, and from the decrypted
    sum they would learn the key of everything that the coordinator has seen. So the coordinator sees no ciphertext at all.
    """

    def __init__(self, session: bytes, site: int, private: bytes, public: bytes) -> None:
        self._session, self._site = session, site
        self._material = agree(private_key(private), public, who=f"site {site} or of the key holder")

    def _cipher(self, chunk: int) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(derive(self._session, self._material, "upload", u32(self._site), u32(chunk)))

    def seal(self, chunk: int, data: bytes) -> bytes:
        """Encrypt a chunk."""
        return self._cipher(chunk).encrypt(NONCE, data, None)

    def open(self, chunk: int, data: bytes) -> bytes:
        """Decrypt a chunk; raises ProtectionError naming the site if it does not authenticate."""
        try:
            return self._cipher(chunk).decrypt(NONCE, data, None)
        except InvalidTag:
            raise ProtectionError(
                f"Chunk {chunk} of site {self._site} does not authenticate: it was changed, swapped or sealed with another key.",
                remedy=REMEDY,
            ) from None


def write_parts(parts: Sequence[bytes]) -> bytes:
    """Return the parts, each preceded by its length as u32."""
    return b"".join(piece for part in parts for piece in (u32(len(part)), part))


def read_parts(data: bytes, count: int, what: str) -> list[bytes]:
    """Read exactly `count` parts; raises ProtectionError for anything else."""
    parts = []
    place = 0
    for _ in range(count):
        size = int.from_bytes(data[place : place + 4], "big")
        part = data[place + 4 : place + 4 + size]
        if place + 4 > len(data) or len(part) != size:
            raise ProtectionError(f"Expected {count} parts in {what}, got fewer.", remedy=REMEDY)
        parts.append(part)
        place += 4 + size
    if place != len(data):
        raise ProtectionError(f"Expected {count} parts in {what}, got more.", remedy=REMEDY)
    return parts


def read_range(data: bytes, chunks: int) -> range:
    """Read which chunks are requested; raises ProtectionError for none or too many."""
    first, count = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big")
    if len(data) != 8 or count < 1 or first + count > chunks:
        raise ProtectionError(f"Expected chunks within 0 to {chunks}.", remedy=REMEDY)
    return range(first, first + count)


def write_range(chunks: range) -> bytes:
    """Return first and count."""
    return u32(chunks.start) + u32(len(chunks))
