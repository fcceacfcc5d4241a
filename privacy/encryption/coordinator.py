"""The coordinator's side of the encrypted sum, sans-IO: it relays sealed ciphertexts and unpacks the sum.

    KEYS ──close──> UPLOADING (n times) ──> CONSENTING ──> DECRYPTING (n times) ──> DONE
     too few sites, or no key holder ──> ABANDONED: nothing has been decrypted

Sealed ciphertexts wait in unnamed temporary files; memory holds the chunks of one exchange.
"""

import hashlib
from collections.abc import Mapping
from enum import Enum

import numpy as np

from salus.common.errors import ProtectionError
from salus.privacy.contribution import Shape, Sum
from salus.privacy.encryption.messages import (
    WHY,
    consent_statement,
    key_statement,
    read_parts,
    root_of,
    root_statement,
    write_parts,
    write_range,
)
from salus.privacy.encryption.packing import SLOTS, Packing
from salus.privacy.encryption.spool import Spool
from salus.privacy.protocol.collecting import LEFT_OUT, Collecting, check_order
from salus.privacy.protocol.session import Session
from salus.privacy.protocol.tables import KEY_BYTES, SIGNATURE_BYTES, write_table
from salus.privacy.protocol.transcript import Recorder

UPLOAD_CHUNKS = 16  # 3.5 MB from each site per exchange
DECRYPT_CIPHERTEXTS = 80  # 18 MB to the key holder per exchange


class Step(Enum):
    """Which replies the coordinator is collecting; drawn in the module's docstring."""

    KEYS = 1
    UPLOADING = 2
    CONSENTING = 3
    DECRYPTING = 4
    DONE = 5
    ABANDONED = 6


class EncryptedCoordinator(Collecting):
    """The coordinator in one session; arguments as in `EncryptedSite` and `Collecting`."""

    def __init__(
        self,
        session: Session,
        shape: Shape,
        packing: Packing,
        holder: int,
        keys: Mapping[int, bytes],
        record: Recorder,
        *,
        noised: bool = False,
    ) -> None:
        super().__init__(session, shape, keys, record, noised=noised)
        self._packing, self._holder = packing, holder
        self._chunks = packing.chunks(shape.length)
        self._step = Step.KEYS
        self._asked = range(0)
        self._channels: dict[int, bytes] = {}
        self._holder_keys = b""
        self._spool: Spool | None = None
        self._uploading: set[int] = set()
        self._answered: set[int] = set()
        self._rows: dict[int, bytes] = {}
        self._table = b""
        self._sums: list[np.ndarray] = []

    @property
    def step(self) -> Step:
        """Which replies are being collected."""
        return self._step

    def receive(self, site: int, reply: bytes) -> None:
        """Accept one site's reply to the current step; raises ProtectionError, naming the site and the check."""
        if site not in self._keys or site in self._answered:
            raise ProtectionError(f"Expected no reply from site {site} now.", remedy=LEFT_OUT)
        match self._step:
            case Step.KEYS:
                self._take_keys(site, reply)
            case Step.UPLOADING:
                self._take_chunks(site, reply)
            case Step.CONSENTING:
                covered = consent_statement(self._session.id, self._table)
                self._take_consent(site, reply, self._rows, covered)
            case Step.DECRYPTING:
                self._take_sums(site, reply)
            case _:
                raise ProtectionError("The session has ended.", remedy=LEFT_OUT)
        self._answered.add(site)

    def close(self) -> Mapping[int, bytes] | None:
        """End the current exchange with the sites that have answered; see `CoordinatorEnd.close`."""
        requests: Mapping[int, bytes] | None
        try:
            match self._step:
                case Step.KEYS:
                    requests = self._ask_first_chunks()
                case Step.UPLOADING:
                    requests = self._ask_more_chunks()
                case Step.CONSENTING:
                    requests = self._ask_decryption()
                case Step.DECRYPTING:
                    requests = self._ask_more_decryption()
                case _:
                    raise ProtectionError("The session has ended.", remedy="Start a new attempt.")
        except BaseException:
            self._step = Step.ABANDONED
            self._end()
            raise
        self._answered = set()
        return requests

    def _end(self) -> None:
        if self._spool is not None:
            self._spool.close()
        self._spool = None

    # keys

    def _take_keys(self, site: int, reply: bytes) -> None:
        channel, signature = reply[:KEY_BYTES], reply[KEY_BYTES : KEY_BYTES + SIGNATURE_BYTES]
        public = reply[KEY_BYTES + SIGNATURE_BYTES :]
        if bool(public) != (site == self._holder):
            raise ProtectionError(
                f"Expected a public BFV key only from the key holder; site {site} sent the wrong keys.",
                remedy=LEFT_OUT,
            )
        self._verify(site, signature, key_statement(self._session.id, site, channel, public), "key", WHY)
        check_order(channel, site)
        self._channels[site] = channel
        if public:
            self._holder_keys = reply

    def _ask_first_chunks(self) -> Mapping[int, bytes]:
        if not self._holder_keys:
            raise ProtectionError(
                f"The key holder, site {self._holder}, did not answer.",
                remedy="Start the key holder; no site uploads without it.",
            )
        self._need(len(self._channels), self._limits.needed, "keys")
        self._spool = Spool()
        self._uploading = set(self._channels)
        self._step = Step.UPLOADING
        self._asked = range(min(UPLOAD_CHUNKS, self._chunks))
        return dict.fromkeys(self._channels, write_parts([self._holder_keys, write_range(self._asked)]))

    # upload

    def _take_chunks(self, site: int, reply: bytes) -> None:
        spool = self._spool
        if site not in self._uploading or spool is None:
            raise ProtectionError(f"Site {site} is not uploading.", remedy=LEFT_OUT)
        last = self._asked.stop == self._chunks
        parts = read_parts(reply, len(self._asked) + last, f"the upload of site {site}")
        for part in parts[: len(self._asked)]:
            spool.append(site, part)
        if last:
            root, channel = root_of(spool.hashes[site]), self._channels[site]
            self._verify(site, parts[-1], root_statement(self._session.id, site, channel, root), "upload", WHY)
            self._rows[site] = channel + root + parts[-1]
            self._record("uploaded", site=site, channel=channel.hex(), root=root.hex(), signature=parts[-1].hex())

    def _ask_more_chunks(self) -> Mapping[int, bytes]:
        self._uploading &= self._answered  # a site that stopped is left out; an incomplete upload is useless
        self._need(len(self._uploading), self._limits.needed, "uploads")
        if self._asked.stop < self._chunks:
            self._asked = range(self._asked.stop, min(self._asked.stop + UPLOAD_CHUNKS, self._chunks))
            return dict.fromkeys(self._uploading, write_range(self._asked))
        self._step = Step.CONSENTING
        self._table = write_table(self._rows)
        self._record("survivors", sites=sorted(self._rows))
        return dict.fromkeys(self._rows, self._table)

    # consent

    def _ask_decryption(self) -> Mapping[int, bytes]:
        consents = self._enough_consents()
        if self._holder not in self._consents:
            raise ProtectionError(
                f"The key holder, site {self._holder}, did not consent.", remedy="Start a new attempt."
            )
        self._step = Step.DECRYPTING
        assert self._spool is not None  # Safe because it lives until the end.
        hashes = b"".join(b"".join(self._spool.hashes[site]) for site in sorted(self._rows))
        self._asked = range(self._per_decryption)
        return {self._holder: write_parts([self._table, consents, hashes, self._chunks_asked()])}

    @property
    def _per_decryption(self) -> int:
        return min(self._chunks, max(1, DECRYPT_CIPHERTEXTS // len(self._rows)))

    def _chunks_asked(self) -> bytes:
        assert self._spool is not None  # Safe because it lives until the end.
        parts = [write_range(self._asked)]
        parts += [self._spool.chunk(site, number) for number in self._asked for site in sorted(self._rows)]
        return write_parts(parts)

    # decrypt

    def _take_sums(self, site: int, reply: bytes) -> None:
        if site != self._holder or len(reply) != 8 * SLOTS * len(self._asked):
            raise ProtectionError(
                f"Expected the sums of {len(self._asked)} chunks from the key holder.", remedy=LEFT_OUT
            )
        for place, number in enumerate(self._asked):
            slots = np.frombuffer(reply, dtype="<u8", count=SLOTS, offset=8 * SLOTS * place)
            first = number * self._packing.per_chunk
            count = min(self._packing.per_chunk, self._shape.length - first)
            self._sums.append(self._packing.unpack(slots, len(self._rows), count))

    def _ask_more_decryption(self) -> Mapping[int, bytes] | None:
        if self._holder not in self._answered:
            raise ProtectionError(
                f"The key holder, site {self._holder}, did not decrypt.",
                remedy="See its log, then start a new attempt.",
            )
        if self._asked.stop < self._chunks:
            self._asked = range(self._asked.stop, min(self._asked.stop + self._per_decryption, self._chunks))
            return {self._holder: self._chunks_asked()}
        sums = np.concatenate(self._sums)
        self._record("sum", sites=sorted(self._rows), sha256=hashlib.sha256(sums.astype("<i8").tobytes()).hexdigest())
        self._result = Sum(sums.astype(np.float64) / 2.0**self._packing.fraction_bits, tuple(sorted(self._rows)))
        self._step = Step.DONE
        self._end()
        return None
