"""BFV (Brakerski 2012; Fan and Vercauteren 2012, eprint 2012/144) through TenSEAL's binding of SEAL.

Degree 8192 with three primes of 45 bits (135 bits; 128-bit security allows 218, Homomorphic Encryption Standard 2018) and a
60-bit plaintext modulus. Addition is exact: a decryption is the sum of the plaintexts modulo t, or it is refused
because of its noise budget. The binding reads and writes only files, so ciphertexts pass through a private folder in memory;
secret keys and plaintexts do not.
"""

import contextlib
import functools
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tenseal.sealapi as seal
import zstandard

from salus.common.errors import ProtectionError
from salus.privacy.encryption.packing import PLAIN_MODULUS, SLOTS, Slots

MODULUS_BITS = (45, 45, 45)
MEMORY = Path("/dev/shm")  # noqa: S108  # a file system in memory where there is one
HEADER_BYTES, SEAL_MAGIC, ZSTD = 16, bytes.fromhex("5ea1100403"), 2
COEFFICIENT_PAGE = 8 * SLOTS  # everything before the first whole page of coefficients is the same in every fresh object
LARGEST_RAW_BYTES = 1_000_000
LARGEST_CIPHERTEXT_BYTES = 300_000  # 220 kB, and the header
LARGEST_KEY_BYTES = 400_000
FRESH_BUDGET_BITS = 18  # a fresh one has 22
FOREIGN = "Start a new attempt without this site; it runs another version or is malicious."


def context() -> seal.SEALContext:
    """Return the context that all parties use; its parameters are constants and never negotiated."""
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(SLOTS)
    parameters.set_coeff_modulus(seal.CoeffModulus.Create(SLOTS, list(MODULUS_BITS)))
    modulus = seal.PlainModulus.Batching(SLOTS, 60)
    if modulus.value() != PLAIN_MODULUS:
        raise ProtectionError("SEAL chose another plaintext modulus.", remedy="Install the pinned version of tenseal.")
    parameters.set_plain_modulus(modulus)
    made = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    if not made.parameters_set():
        raise ProtectionError(
            "SEAL refuses the parameters at 128-bit security.", remedy="Install the pinned version of tenseal."
        )
    return made


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="salus-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield folder


def _dump(item: "seal.Ciphertext | seal.PublicKey") -> bytes:
    with _folder() as folder:
        path = os.path.join(folder, "item")
        item.save(path)
        return Path(path).read_bytes()


@functools.cache
def _form(ciphertext: bool) -> tuple[int, bytes]:
    """Return length and beginning of a fresh ciphertext or public key, uncompressed; both are constants."""
    made = context()
    generator = seal.KeyGenerator(made)
    key = seal.PublicKey()
    generator.create_public_key(key)
    item = key
    if ciphertext:
        item = seal.Ciphertext(made)
        seal.Encryptor(made, key).encrypt_zero(item)
    raw = zstandard.ZstdDecompressor().decompress(_dump(item)[HEADER_BYTES:], max_output_size=LARGEST_RAW_BYTES)
    return len(raw), raw[: len(raw) % COEFFICIENT_PAGE]


def _load(item: "seal.Ciphertext | seal.PublicKey", made: seal.SEALContext, data: bytes, most: int, what: str) -> None:
    """Read an untrusted object: decompressed here to its only possible size, because SEAL would decompress without a limit."""
    if len(data) > most:
        raise ProtectionError(f"Expected {what} of at most {most} bytes, got {len(data)}.", remedy=FOREIGN)
    none = ProtectionError(
        f"Expected {what} for the agreed parameters, got {len(data)} bytes in another format.", remedy=FOREIGN
    )
    length, beginning = _form(isinstance(item, seal.Ciphertext))
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data[HEADER_BYTES:])) as reader:
            raw = reader.read(length + 1)
    except zstandard.ZstdError:
        raise none from None
    if len(raw) != length or not raw.startswith(beginning):
        raise none
    header = bytearray(data[:HEADER_BYTES])
    if bytes(header[:5]) != SEAL_MAGIC or header[5] != ZSTD:
        raise none
    header[5], header[8:] = 0, (HEADER_BYTES + length).to_bytes(8, "little")
    with _folder() as folder:
        path = os.path.join(folder, "item")
        Path(path).write_bytes(bytes(header) + raw)
        try:
            item.load(made, path)  # checks that it is valid for the context
        except (RuntimeError, ValueError, IndexError, MemoryError):
            raise none from None


class Encryptor:
    """Encrypts to a key holder's public key.

    Raises:
        ProtectionError: the key does not have these parameters.
    """

    def __init__(self, public_key: bytes) -> None:
        self._context = context()
        key = seal.PublicKey()
        _load(key, self._context, public_key, LARGEST_KEY_BYTES, "a public key")
        self._encryptor, self._encoder = seal.Encryptor(self._context, key), seal.BatchEncoder(self._context)

    def encrypt(self, slots: Slots) -> bytes:
        """Return a ciphertext of one chunk of slots."""
        plain, cipher = seal.Plaintext(), seal.Ciphertext(self._context)
        self._encoder.encode(slots.tolist(), plain)
        self._encryptor.encrypt(plain, cipher)
        return _dump(cipher)


class KeyPair:
    """A new key pair for one session, kept only in memory."""

    def __init__(self) -> None:
        self._context = context()
        generator = seal.KeyGenerator(self._context)
        public = seal.PublicKey()
        generator.create_public_key(public)
        self.public_key = _dump(public)
        self._decryptor = seal.Decryptor(self._context, generator.secret_key())
        self._evaluator, self._encoder = seal.Evaluator(self._context), seal.BatchEncoder(self._context)

    def decrypt_sum(self, ciphertexts: Iterable[tuple[int, bytes]]) -> Slots:
        """Add ciphertexts, given with their sites, and return the slots of the sum.

        Raises:
            ProtectionError: one of them has other parameters (the message names its site), or the sum is too noisy.
        """
        total: seal.Ciphertext | None = None
        for site, data in ciphertexts:
            cipher = seal.Ciphertext(self._context)
            _load(cipher, self._context, data, LARGEST_CIPHERTEXT_BYTES, f"a ciphertext of site {site}")
            # A fresh encryption under this key has a known noise level.
            if self._decryptor.invariant_noise_budget(cipher) < FRESH_BUDGET_BITS:
                raise ProtectionError(
                    f"The ciphertext of site {site} is not a fresh encryption under this session's key.", remedy=FOREIGN
                )
            if total is None:
                total = cipher
                continue
            try:
                self._evaluator.add_inplace(total, cipher)
            except RuntimeError:  # SEAL refuses transparent ciphertexts, which hide nothing
                raise ProtectionError(f"The ciphertext of site {site} cancels others.", remedy=FOREIGN) from None
        if total is None or self._decryptor.invariant_noise_budget(total) < 1:
            raise ProtectionError("The sum cannot be decrypted, because its noise is too large.", remedy=FOREIGN)
        plain = seal.Plaintext()
        self._decryptor.decrypt(total, plain)
        return np.array(self._encoder.decode_uint64(plain), dtype=np.uint64)
