"""A site's side of the encrypted sum, sans-IO; the key holder is a site that also decrypts.

    NEW ─open─> ADVERTISED ─upload (n times)─> UPLOADED ─consent─> CONSENTED
                                        key holder: ─decrypt (n times)─> DONE          any refusal ─> FAILED

A site may go offline after its last upload; t sites must stay for the consent.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from salus.common.canonical import hash_parts
from salus.common.errors import ProtectionError
from salus.privacy.contribution import Contribution, Shape
from salus.privacy.encryption.messages import (
    HASH_BYTES,
    KEY_BYTES,
    REMEDY,
    ROW_BYTES,
    SIGNATURE_BYTES,
    Box,
    check,
    consent_statement,
    key_statement,
    read_parts,
    read_range,
    root_of,
    root_statement,
    write_parts,
)
from salus.privacy.encryption.packing import Packing
from salus.privacy.encryption.scheme import Encryptor, KeyPair
from salus.privacy.prg import Words
from salus.privacy.protection import SiteParty
from salus.privacy.protocol.contributors import STATEMENT_BYTES, Consent, Statement, check_contributors, check_survivors
from salus.privacy.protocol.encoding import FixedPoint, encode
from salus.privacy.protocol.head import SIGNED_HEAD_BYTES, open_head, sign_head
from salus.privacy.protocol.keys import public_of
from salus.privacy.protocol.parameters import thresholds
from salus.privacy.protocol.secret import Secret
from salus.privacy.protocol.session import Session
from salus.privacy.protocol.tables import read_table


class State(Enum):
    """The state of a site in a session; drawn in the module's docstring."""

    NEW = "new"
    ADVERTISED = "advertised"
    UPLOADED = "uploaded"
    CONSENTED = "consented"
    DONE = "done"
    FAILED = "failed"


@dataclass
class _Upload:
    """The upload in progress: values, keys, and the hashes of the chunks sent."""

    encryptor: Encryptor
    box: Box
    hashes: list[bytes]


@dataclass
class _Decryption:
    """What the key holder may decrypt: the chunks of these sites with these hashes, in order."""

    boxes: dict[int, Box]
    hashes: dict[int, list[bytes]]
    following: int = 0


class EncryptedSite:
    """One site in one session.

    Args:
        holder: id of the key holder.
        job_minimum: fewest sites that must contribute data, from the job.

    Guarantees: nothing leaves unencrypted; the site consents at most once; as key holder it decrypts at most one sum per session,
    over uploads that their sites signed and t sites consented to, each chunk once, with a key that never leaves memory.
    """

    def __init__(
        self, session: Session, shape: Shape, packing: Packing, holder: int, party: SiteParty, job_minimum: int = 0
    ) -> None:
        if set(session.roster) != set(party.keys) or party.site not in party.keys or holder not in party.keys:
            raise ProtectionError(
                "Expected a session over the whole pinned roster.", remedy="Install the newest roster."
            )
        self._session, self._shape, self._packing, self._holder, self._me = session, shape, packing, holder, party
        self._limits = thresholds(len(session.roster), noised=party.head is not None)
        self._way, self._job_minimum, self._statement = f"encryption/{holder}", job_minimum, Statement()
        self._chunks = packing.chunks(shape.length)
        self._state = State.NEW
        self._words: Words | None = None
        self._pair: KeyPair | None = None
        self._upload: _Upload | None = None
        self._decryption: _Decryption | None = None
        self._root = b""
        self._last: tuple[bytes, bytes] | None = None

    @property
    def state(self) -> State:
        """The current state."""
        return self._state

    def open(self, contribution: Contribution) -> bytes:
        """Encode the contribution, remember the session on disk, and return this site's keys."""
        if self._state is not State.NEW:
            raise ProtectionError("Expected a new session.", remedy="A session is used once.")
        self._state = State.FAILED
        self._me.store.open_session(self._session.id, self._me.scope)
        self._words = encode(contribution, self._shape, FixedPoint(self._packing.fraction_bits), self._me.random)
        if self._me.head is None:  # with noise, no one needs to know whether a site has data
            self._statement = Statement(contribution.data, self._me.minimum_cohort)
        self._channel = Secret(self._me.random(KEY_BYTES))
        if self._me.site == self._holder:
            self._pair = KeyPair()
        public = self._pair.public_key if self._pair is not None else b""
        channel = public_of(self._channel.reveal())
        signature = self._me.identity.sign_raw(key_statement(self._session.id, self._me.site, channel, public))
        self._state = State.ADVERTISED
        return channel + signature + public

    def answer(self, request: bytes) -> bytes:
        """Return the reply to the next request; raises ProtectionError and ends the session otherwise."""
        steps: dict[State, Callable[[bytes], bytes]] = {
            State.ADVERTISED: self._send,
            State.UPLOADED: self._consent,
            State.CONSENTED: self._decrypt,
        }
        seen = hashlib.sha256(request).digest()
        if self._last is not None and self._last[0] == seen:
            return self._last[1]  # our reply was lost and is requested again; nothing is encrypted or decrypted twice
        step, state = steps.get(self._state), self._state
        if step is None or (state is State.CONSENTED and self._pair is None):
            raise ProtectionError(f"Expected no request in state {state.value!r}.", remedy="Start a new attempt.")
        self._state = State.FAILED
        try:
            reply = step(request)
        except BaseException:
            self._drop()
            self._last = None
            raise
        if self._state is State.FAILED:  # the step is not complete: more requests of this kind follow
            self._state = state
        self._last = seen, reply
        return reply

    def _drop(self) -> None:
        self._channel.drop()
        self._words = self._pair = self._upload = self._decryption = None

    # upload

    def _send(self, request: bytes) -> bytes:
        if self._upload is None:
            keys, asked = read_parts(request, 2, "the key holder's keys")
            self._upload = self._open_upload(keys)
        else:
            asked = request
        chunks = read_range(asked, self._chunks)
        upload, words = self._upload, self._words
        assert words is not None  # Safe because they are dropped only when the session ends.
        if chunks.start != len(upload.hashes):
            raise ProtectionError("Expected the next chunks; each is encrypted once.", remedy=REMEDY)
        parts = []
        for chunk in chunks:
            size = self._packing.per_chunk
            slots = self._packing.pack(words[chunk * size : (chunk + 1) * size])
            before = self._statement.to_bytes() if chunk == 0 else b""  # for the key holder, see `_check_contributors`
            sealed = upload.box.seal(chunk, before + upload.encryptor.encrypt(slots))
            upload.hashes.append(hashlib.sha256(sealed).digest())
            parts.append(sealed)
        if len(upload.hashes) < self._chunks:
            return write_parts(parts)
        self._root = root_of(upload.hashes)
        channel = public_of(self._channel.reveal())
        statement = root_statement(self._session.id, self._me.site, channel, self._root)
        self._words = self._upload = None
        self._state = State.UPLOADED
        return write_parts([*parts, self._me.identity.sign_raw(statement)])

    def _open_upload(self, keys: bytes) -> _Upload:
        channel, signature = keys[:KEY_BYTES], keys[KEY_BYTES : KEY_BYTES + SIGNATURE_BYTES]
        public = keys[KEY_BYTES + SIGNATURE_BYTES :]
        statement = key_statement(self._session.id, self._holder, channel, public)
        check(self._me.keys[self._holder], signature, statement, self._holder, "public key")
        box = Box(self._session.id, self._me.site, self._channel.reveal(), channel)
        return _Upload(Encryptor(public), box, [])

    # consent

    def _consent(self, request: bytes) -> bytes:
        rows = read_table(request, ROW_BYTES, "the list of uploads")
        self._check_rows(rows)
        mine = rows.get(self._me.site, b"")
        if mine[KEY_BYTES : KEY_BYTES + HASH_BYTES] != self._root:
            raise ProtectionError("This site's own upload is missing or changed.", remedy=REMEDY)
        survivors = frozenset(rows)
        if self._me.head is None:
            check_survivors(survivors, self._way, self._me.store.consents(self._me.scope))
        self._me.store.consent(self._session.id, Consent(survivors, self._way))  # on disk before the signature exists
        consent = self._me.identity.sign_raw(consent_statement(self._session.id, request))
        self._state = State.CONSENTED
        if self._me.head is None:
            return consent
        head = self._me.head()
        self._me.store.ledger_seen(self._me.site, head)
        return consent + sign_head(self._me.identity, self._session.id, self._me.site, head)

    def _check_rows(self, rows: dict[int, bytes]) -> None:
        """Check that every listed site is on the roster and signed its upload, and that there are enough of them."""
        needed = max(self._limits.needed, self._me.minimum_cohort)
        if len(rows) < needed:
            raise ProtectionError(
                f"Expected at least {needed} uploads, got {len(rows)}.", remedy="Wait for more sites."
            )
        for site, row in rows.items():
            if site not in self._me.keys:
                raise ProtectionError(f"Site {site} uploaded but is not on the roster.", remedy=REMEDY)
            channel, root = row[:KEY_BYTES], row[KEY_BYTES : KEY_BYTES + HASH_BYTES]
            statement = root_statement(self._session.id, site, channel, root)
            check(self._me.keys[site], row[-SIGNATURE_BYTES:], statement, site, "upload")

    # decrypt: the key holder only

    def _decrypt(self, request: bytes) -> bytes:
        pair = self._pair
        assert pair is not None  # Safe because `answer` lets only the key holder come here.
        if self._decryption is None:
            table, consents, hashes, request = read_parts(request, 4, "the request to decrypt")
            self._decryption = self._open_decryption(table, consents, hashes)
        decryption = self._decryption
        asked, *sealed = read_parts(request, 1 + self._count(request), "the chunks to decrypt")
        chunks = read_range(asked, self._chunks)
        if chunks.start != decryption.following:
            raise ProtectionError("Expected the next chunks; each is decrypted once.", remedy=REMEDY)
        sites = sorted(decryption.boxes)
        sums = []
        for number, chunk in enumerate(chunks):
            mine = sealed[number * len(sites) : (number + 1) * len(sites)]
            opened = [
                (site, self._opened(decryption, site, chunk, data)) for site, data in zip(sites, mine, strict=True)
            ]
            if chunk == 0:
                self._check_contributors({site: data[:STATEMENT_BYTES] for site, data in opened})
                opened = [(site, data[STATEMENT_BYTES:]) for site, data in opened]
            slots = pair.decrypt_sum(opened)
            self._packing.unpack(
                slots, len(sites), self._packing.per_chunk
            )  # refuses sums that these sites cannot have produced
            sums.append(slots.astype("<u8").tobytes())
        decryption.following = chunks.stop
        if chunks.stop == self._chunks:
            self._drop()
            self._state = State.DONE
        return b"".join(sums)

    def _count(self, request: bytes) -> int:
        """Return how many ciphertexts a request to decrypt must hold: one of each site for each chunk."""
        assert self._decryption is not None  # Safe because it was opened just before.
        asked = int.from_bytes(request[8:12], "big") if len(request) >= 12 else 0
        return min(asked, self._chunks) * len(self._decryption.boxes)

    def _opened(self, decryption: _Decryption, site: int, chunk: int, data: bytes) -> bytes:
        if hashlib.sha256(data).digest() != decryption.hashes[site][chunk]:
            raise ProtectionError(f"Chunk {chunk} of site {site} is not the one that the site signed.", remedy=REMEDY)
        return decryption.boxes[site].open(chunk, data)

    def _open_decryption(self, table: bytes, consents: bytes, hashes: bytes) -> _Decryption:
        rows = read_table(table, ROW_BYTES, "the list of uploads")
        self._check_rows(rows)
        self._check_consents(table, set(rows), consents)
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
        """Refuse to decrypt a sum without noise to which too few sites, or other sites than before, contributed data.

        Only the key holder can check this: the statements are in the sealed uploads.
        """
        if self._me.head is not None:
            return
        statements = {site: Statement.from_bytes(data, site) for site, data in said.items()}
        required = max(self._limits.minimum_cohort, self._me.minimum_cohort, self._job_minimum)
        found = check_contributors(
            statements, required, self._limits.colluders, self._me.store.consents(self._me.scope)
        )
        agreed = Consent(frozenset(statements), self._way, found)
        self._me.store.consent(self._decryption_id, agreed)  # on disk before the first sum leaves

    def _check_consents(self, table: bytes, listed: set[int], consents: bytes) -> None:
        noised = self._me.head is not None
        given = read_table(consents, SIGNATURE_BYTES + (SIGNED_HEAD_BYTES if noised else 0), "the consents")
        for site, row in given.items():
            if site not in listed:
                raise ProtectionError(f"Site {site} consented but is not in the list.", remedy=REMEDY)
            statement = consent_statement(self._session.id, table)
            check(self._me.keys[site], row[:SIGNATURE_BYTES], statement, site, "consent")
            if noised and site != self._me.site:
                head = open_head(row[SIGNATURE_BYTES:], self._me.keys[site], self._session.id, site)
                self._me.store.ledger_seen(site, head)
        if len(given) < self._limits.threshold:
            raise ProtectionError(
                f"Expected consents of {self._limits.threshold} sites, got {len(given)}.", remedy="Wait for more sites."
            )
