"""A site's side of the encrypted sum, sans-IO; the key holder is a site that also decrypts.

    NEW ─open─> ADVERTISED ─upload (n times)─> UPLOADED ─consent─> CONSENTED
                                        key holder: ─decrypt (n times)─> DONE          any refusal ─> FAILED

A site may go offline after its last upload; t sites must stay for the consent.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from salus.common.errors import ProtectionError
from salus.privacy.contribution import Contribution, Shape
from salus.privacy.encryption.key_holder import KeyHolder, read_uploads
from salus.privacy.encryption.messages import (
    HASH_BYTES,
    WHY,
    Box,
    consent_statement,
    key_statement,
    read_parts,
    read_range,
    root_of,
    root_statement,
    write_parts,
)
from salus.privacy.encryption.packing import Packing
from salus.privacy.encryption.scheme import Encryptor
from salus.privacy.prg import Words
from salus.privacy.protocol.consent import SiteConsent
from salus.privacy.protocol.contributors import Statement
from salus.privacy.protocol.encoding import FixedPoint, encode
from salus.privacy.protocol.keys import public_of
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.secret import Secret
from salus.privacy.protocol.session import Session
from salus.privacy.protocol.signed import check_signed
from salus.privacy.protocol.tables import KEY_BYTES, REMEDY, SIGNATURE_BYTES


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
        if holder not in party.keys:
            raise ProtectionError("Expected a key holder on the pinned roster.", remedy="Install the newest roster.")
        self._session, self._shape, self._packing, self._holder, self._me = session, shape, packing, holder, party
        self._agreement = SiteConsent(session, party, f"encryption/{holder}", job_minimum)
        self._statement = Statement()
        self._chunks = packing.chunks(shape.length)
        self._state = State.NEW
        self._words: Words | None = None
        self._key_holder: KeyHolder | None = None
        self._upload: _Upload | None = None
        self._root = b""
        self._last: tuple[bytes, bytes] | None = None

    @property
    def state(self) -> State:
        """The current state."""
        return self._state

    @property
    def finished(self) -> bool:
        """Whether the last request was answered, or one failed."""
        last = State.DONE if self._me.site == self._holder else State.CONSENTED
        return self._state in (last, State.DONE, State.FAILED)

    def open(self, contribution: Contribution) -> bytes:
        """Encode the contribution, remember the session on disk, and return this site's keys."""
        if self._state is not State.NEW:
            raise ProtectionError("Expected a new session.", remedy="A session is used once.")
        self._state = State.FAILED
        self._me.store.open_session(self._session.id, self._me.scope)
        self._words = encode(contribution, self._shape, FixedPoint(self._packing.fraction_bits), self._me.random)
        self._statement = self._agreement.statement(contribution.data)
        self._channel = Secret(self._me.random(KEY_BYTES))
        if self._me.site == self._holder:
            self._key_holder = KeyHolder(
                self._session, self._packing, self._chunks, self._me, self._agreement, self._channel
            )
        public = self._key_holder.public_key if self._key_holder is not None else b""
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
        if step is None or (state is State.CONSENTED and self._key_holder is None):
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
        self._words = self._key_holder = self._upload = None

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
            before = self._statement.to_bytes() if chunk == 0 else b""  # for the key holder, see `KeyHolder`
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
        key = self._me.keys[self._holder]
        check_signed(key, signature, statement, site=self._holder, what="public key", why=WHY)
        box = Box(self._session.id, self._me.site, self._channel.reveal(), channel)
        return _Upload(Encryptor(public), box, [])

    # consent

    def _consent(self, request: bytes) -> bytes:
        rows = read_uploads(request, self._session.id, self._me)
        if rows.get(self._me.site, b"")[KEY_BYTES : KEY_BYTES + HASH_BYTES] != self._root:
            raise ProtectionError("This site's own upload is missing or changed.", remedy=REMEDY)
        survivors = frozenset(rows)
        self._agreement.check_survivors(survivors)
        consent = self._agreement.give(survivors, consent_statement(self._session.id, request))
        self._state = State.CONSENTED
        return consent

    # decrypt: the key holder only

    def _decrypt(self, request: bytes) -> bytes:
        key_holder = self._key_holder
        assert key_holder is not None  # Safe because `answer` lets only the key holder come here.
        sums = key_holder.decrypt(request)
        if key_holder.finished:
            self._drop()
            self._state = State.DONE
        return sums
