"""Key streams and masks."""

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from salus.privacy.prg import CHUNK_WORDS, Mask, add_masks, keystream


@pytest.mark.parametrize("count", [0, 1, CHUNK_WORDS - 1, CHUNK_WORDS, 2 * CHUNK_WORDS + 7])
def test_the_key_stream_is_counter_mode_from_block_two(count: int) -> None:
    key, segment = os.urandom(32), 5
    block = bytes(8) + segment.to_bytes(4, "big") + (2).to_bytes(4, "big")
    plain = Cipher(algorithms.AES256(key), modes.CTR(block)).encryptor().update(bytes(4 * count))
    assert keystream(key, segment, count).tobytes() == plain


@given(st.integers(1, 5), st.integers(0, 300))
def test_masks_cancel(peers: int, length: int) -> None:
    keys = [os.urandom(32) for _ in range(peers)]
    words = np.arange(length, dtype=np.uint32)
    add_masks(words, [Mask(key) for key in keys])
    add_masks(words, [Mask(key, minus=True) for key in keys])
    assert np.array_equal(words, np.arange(length, dtype=np.uint32))
