"""Masks from keys: AES-256 in counter mode, added in place, all keys per chunk so that the accumulator stays in cache.

The first counter block is ``u32(0) || u32(0) || u32(segment) || u32(2)``, which is the keystream of AES-256-GCM with that
96-bit nonce; OpenSSL computes it fastest that way. Words are little-endian; arithmetic is modulo 2^32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from salus.common.canonical import u32

Words = npt.NDArray[np.uint32]
CHUNK_WORDS = 65_536  # 256 KiB: accumulator, zeros and keystream together fit a core's second-level cache
ZEROS = bytes(4 * CHUNK_WORDS)
KEY_BYTES = 32


@dataclass(frozen=True)
class Mask:
    """One mask: its key and whether it is subtracted."""

    key: bytes
    minus: bool = False


def keystream(key: bytes, segment: int, count: int) -> Words:
    """Return the first `count` words of ``PRG(key, segment)``."""
    words = np.zeros(count, dtype=np.uint32)
    add_masks(words, [Mask(key)], segment)
    return words


def add_masks(words: Words, masks: Sequence[Mask], segment: int = 0) -> None:
    """Add (or subtract) every mask to `words` in place, modulo 2^32.

    Guarantees: uses memory for one chunk beside `words`; the same key and segment always give the same mask, so a key must
    mask one vector only.
    """
    nonce = u32(0) + u32(0) + u32(segment)
    streams = [Cipher(algorithms.AES256(mask.key), modes.GCM(nonce)).encryptor() for mask in masks]
    # update_into wants room for one more block, less a byte.
    buffer = bytearray(4 * CHUNK_WORDS + 15)
    stream = np.frombuffer(buffer, dtype="<u4", count=CHUNK_WORDS)
    zeros = memoryview(ZEROS)
    for start in range(0, len(words), CHUNK_WORDS):
        chunk = words[start : start + CHUNK_WORDS]
        wanted = zeros[: 4 * len(chunk)]
        for mask, cipher in zip(masks, streams, strict=True):
            cipher.update_into(wanted, buffer)
            if mask.minus:
                np.subtract(chunk, stream[: len(chunk)], out=chunk)
            else:
                np.add(chunk, stream[: len(chunk)], out=chunk)
