"""The building blocks: shares, key streams, fixed point, thresholds."""

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import tiny_job

from salus.common.errors import ProtectionError
from salus.privacy.contribution import Contribution, Shape, to_vector
from salus.privacy.masking.protection import MASKING
from salus.privacy.masking.shamir import PRIME, combine, split
from salus.privacy.prg import CHUNK_WORDS, Mask, add_masks, keystream
from salus.privacy.protocol.encoding import FixedPoint, choose_encoding, decode, encode
from salus.privacy.protocol.parameters import thresholds


@given(st.binary(min_size=32, max_size=32), st.integers(1, 9), st.integers(0, 6), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_gives_the_secret(secret: bytes, threshold: int, more: int, shuffle: object) -> None:
    indices = list(range(1, threshold + more + 1))
    shares = split(secret, threshold, indices, os.urandom)
    chosen = indices[:]
    shuffle.shuffle(chosen)  # type: ignore[attr-defined]
    assert combine({i: shares[i] for i in chosen[:threshold]}, threshold) == secret


def test_one_share_fewer_says_nothing() -> None:
    """Every secret is possible with t - 1 shares: the polynomial through them and any secret exists, uniformly."""
    shares = split(bytes(32), 3, [1, 2, 3, 4, 5], os.urandom)
    with pytest.raises(ProtectionError):
        combine({1: shares[1], 2: shares[2]}, 3)
    tops = [split(bytes(32), 3, [1, 2, 3], os.urandom)[1][2] for _ in range(4000)]
    counts = np.bincount(tops, minlength=256)
    assert ((counts - 15.6) ** 2 / 15.6).sum() < 384  # chi-square, 255 degrees of freedom, alpha 1e-6


@pytest.mark.parametrize(
    "call",
    [
        lambda: split(bytes(31), 2, [1, 2], os.urandom),
        lambda: split(bytes(32), 3, [1, 2], os.urandom),
        lambda: split(bytes(32), 2, [0, 1], os.urandom),
        lambda: split(bytes(32), 2, [1, 1], os.urandom),
        lambda: combine({1: PRIME.to_bytes(66, "big"), 2: bytes(66)}, 2),
        lambda: combine({1: bytes(65), 2: bytes(66)}, 2),
        lambda: combine({1: bytes(66), 2: (1).to_bytes(66, "big")}, 2),
    ],
)
def test_wrong_shares_are_refused(call: object) -> None:
    with pytest.raises(ProtectionError):
        call()  # type: ignore[operator]


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


@given(
    st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=20),
    st.floats(0.0625, 1, width=32),
    st.lists(st.floats(0, 1), max_size=4),
)
def test_encoding_is_within_one_unit_of_the_real_vector(
    update: list[float], weight: float, statistics: list[float]
) -> None:
    contribution = Contribution(np.array(update, np.float32), weight, np.array(statistics))
    shape = Shape(len(update), len(statistics), 2.0)
    encoding = FixedPoint(20)
    words = encode(contribution, shape, encoding, os.urandom)
    assert np.abs(decode(words, encoding) - to_vector(contribution, shape)).max() <= 2**-20


def test_stochastic_rounding_is_unbiased_and_plain_rounding_is_not() -> None:
    value = np.full(200_000, 0.3 * 2**-20, np.float32)
    contribution = Contribution(value, 1.0, np.zeros(0))
    words = encode(contribution, Shape(len(value), 0, 10.0), FixedPoint(20), os.urandom)[:-1]
    share = float(words.astype(np.int32).mean())
    assert abs(share - 0.3) < 6 * np.sqrt(0.21 / len(value))  # six sigma
    assert abs(float(np.rint(value * 2**20).mean()) - 0.3) > 6 * np.sqrt(0.21 / len(value))


@given(st.integers(3, 1000), st.floats(0.01, 1e4))
def test_the_encoding_never_overflows_or_is_refused(sites: int, clip: float) -> None:
    try:
        encoding = choose_encoding(sites, clip)
    except ProtectionError:
        assert sites * 2**12 * max(clip, 1.0) > 2**30
        return
    assert sites * (encoding.scale * max(clip, 1.0) + 1) < 2**31


def test_the_usual_job_has_twenty_bits_and_an_impossible_one_is_refused() -> None:
    assert choose_encoding(16, 100.0).fraction_bits == 20
    with pytest.raises(ProtectionError, match="update_clip_norm_l2"):
        choose_encoding(1000, 1000.0)


def test_the_largest_sum_is_exact() -> None:
    sites, clip = 16, 100.0
    encoding = choose_encoding(sites, clip)
    shape = Shape(1, 0, clip)
    for sign in (1, -1):
        words = np.zeros(2, np.uint32)
        for _ in range(sites):
            words += encode(
                Contribution(np.array([sign * 1e9], np.float32), 1.0, np.zeros(0)), shape, encoding, os.urandom
            )
        assert decode(words, encoding)[0] == pytest.approx(sign * sites * clip, abs=1e-4)


def test_thresholds_hold_for_every_size() -> None:
    for n in range(3, 400):
        limits = thresholds(n)
        assert 2 * limits.threshold > n + limits.colluders
        assert limits.threshold <= n
        assert limits.needed >= 5
    with pytest.raises(ProtectionError):
        thresholds(2)


def test_a_roster_that_is_too_small_is_refused_when_the_job_starts() -> None:
    with pytest.raises(ProtectionError, match="at least 5 sites"):
        MASKING.check(tiny_job(), 4)
    MASKING.check(tiny_job(), 5)
