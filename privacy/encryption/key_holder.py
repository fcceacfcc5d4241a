"""The key holder's part of the encrypted sum: it decrypts one sum per session, chunk by chunk, each once."""

import hashlib
from dataclasses import dataclass

from salus.common.canonical import hash_parts
from salus.common.errors import ProtectionError
from salus.privacy.encryption.messages import (
    HASH_BYTES,
    ROW_BYTES,
    WHY,
    Box,
    consent_statement,
    read_parts,
    read_range,
    root_of,
    root_statement,
)
from salus.privacy.encryption.packing import Packing
from salus.privacy.encryption.scheme import KeyPair
from salus.privacy.protocol.consent import SiteConsent
from salus.privacy.protocol.contributors import STATEMENT_BYTES, Statement
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.secret import Secret
from salus.privacy.protocol.session import Session
from salus.privacy.protocol.signed import check_signed
from salus.privacy.protocol.tables import KEY_BYTES, REMEDY, SIGNATURE_BYTES, read_table


@dataclass
class _Decryption:
    """What the key holder may decrypt: the chunks of these sites with these hashes, in order."""

    boxes: dict[int, Box]
    hashes: dict[int, list[bytes]]
    following: int = 0


class KeyHolder:
    """The key and its use in one session.

    Args:
        chunks: number of chunks of one vector.
        agreement: this site's consent; it decides which sums may be opened.
        channel: X25519 private key of this site.

    Guarantees: it decrypts at most one sum, over uploads that their sites signed and t sites consented to, each chunk once, with
    a key that never leaves memory. Without noise, it decrypts only a sum to which enough sites contributed data, and the
    same ones as before; only the key holder can check this, because the statements are in the sealed uploads.
    """

    def __init__(
        self, session: Session, packing: Packing, chunks: int, party: SiteParty, agreement: SiteConsent, channel: Secret
    ) -> None:
        self._session, self._packing, self._chunks, self._me = session, packing, chunks, party
        self._agreement, self._channel = agreement, channel
        self._pair = KeyPair()
        self._decryption: _Decryption | None = None

    @property
    def public_key(self) -> bytes:
        """The public BFV key."""
        return self._pair.public_key

    @property
    def finished(self) -> bool:
        """Whether every chunk has been decrypted."""
        return self._decryption is not None and self._decryption.following == self._chunks

    def decrypt(self, request: bytes) -> bytes:
        """Return the sums of the requested chunks, u64 per slot, little-endian.

        Raises:
            ProtectionError: not the next chunks, chunks that were not signed, or too few consents.
            NotOpened: too few contributors, or others than in an earlier sum.
        """
        if self._decryption is None:
            table, consents, hashes, request = read_parts(request, 4, "the request to decrypt")
            self._decryption = self._open(table, consents, hashes)
        decryption = self._decryption
        sites = sorted(decryption.boxes)
        asked, *sealed = read_parts(request, 1 + self._count(request, len(sites)), "the chunks to decrypt")
        chunks = read_range(asked, self._chunks)
        if chunks.start != decryption.following:
            raise ProtectionError("Expected the next chunks; each is decrypted once.", remedy=REMEDY)
        sums = []
        for number, chunk in enumerate(chunks):
            mine = sealed[number * len(sites) : (number + 1) * len(sites)]
            opened = {site: _opened(decryption, site, chunk, data) for site, data in zip(sites, mine, strict=True)}
            if chunk == 0:
                self._check_contributors({site: data[:STATEMENT_BYTES] for site, data in opened.items()})
                opened = {site: data[STATEMENT_BYTES:] for site, data in opened.items()}
            slots = self._pair.decrypt_sum(list(opened.items()))
            # Refuses sums that these sites cannot have produced.
            self._packing.unpack(slots, len(sites), self._packing.per_chunk)
            sums.append(slots.astype("<u8").tobytes())
        decryption.following = chunks.stop
        return b"".join(sums)

    def _count(self, request: bytes, sites: int) -> int:
        """Return how many ciphertexts a request to decrypt must hold: one of each site for each chunk."""
        asked = int.from_bytes(request[8:12], "big") if len(request) >= 12 else 0
        return min(asked, self._chunks) * sites

    def _open(self, table: bytes, consents: bytes, hashes: bytes) -> _Decryption:
        rows = read_uploads(table, self._session.id, self._me)
        self._agreement.check_count(len(rows))
        self._agreement.check_given(consents, rows, consent_statement(self._session.id, table))
        per_site = self._chunks * HASH_BYTES
        if len(hashes) != per_site * len(rows):
            raise ProtectionError("Expected the hashes of every chunk of every site.", remedy=REMEDY)
        boxes, known = {}, {}
        for place, site in enumerate(sorted(rows)):
            mine = hashes[place * per_site : (place + 1) * per_site]
            known[site] = [mine[i : i + HASH_BYTES] for i in range(0, per_site, HASH_BYTES)]
            if root_of(known[site]) != rows[site][KEY_BYTES : KEY_BYTES + HASH_BYTES]:
                raise ProtectionError(f"The chunks of site {site} are not those that the site signed.", remedy=REMEDY)
            boxes[site] = Box(self._session.id, site, self._channel.reveal(), rows[site][:KEY_BYTES])
        # On disk before the first sum leaves, so that a session is decrypted only once even after a crash.
        self._me.store.open_session(self._decryption_id, self._me.scope)
        return _Decryption(boxes, known)

    @property
    def _decryption_id(self) -> bytes:
        return hash_parts("encrypted/decrypt", self._session.id)

    def _check_contributors(self, said: dict[int, bytes]) -> None:
        """Check who contributed data, and remember it on disk before the first sum leaves."""
        if self._me.noised:
            return
        found = self._agreement.contributors({site: Statement.from_bytes(data, site) for site, data in said.items()})
        self._agreement.remember(self._decryption_id, frozenset(said), found)


def read_uploads(table: bytes, session: bytes, me: SiteParty) -> dict[int, bytes]:
    """Read the list of uploads; raises ProtectionError for a site that is not on the roster or did not sign its upload."""
    rows = read_table(table, ROW_BYTES, "the list of uploads")
    for site, row in rows.items():
        if site not in me.keys:
            raise ProtectionError(f"Site {site} uploaded but is not on the roster.", remedy=REMEDY)
        channel, root = row[:KEY_BYTES], row[KEY_BYTES : KEY_BYTES + HASH_BYTES]
        statement = root_statement(session, site, channel, root)
        check_signed(me.keys[site], row[-SIGNATURE_BYTES:], statement, site=site, what="upload", why=WHY)
    return rows


def _opened(decryption: _Decryption, site: int, chunk: int, data: bytes) -> bytes:
    if hashlib.sha256(data).digest() != decryption.hashes[site][chunk]:
        raise ProtectionError(f"Chunk {chunk} of site {site} is not the one that the site signed.", remedy=REMEDY)
    return decryption.boxes[site].open(chunk, data)
