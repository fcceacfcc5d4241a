"""Fixed point: rounding without bias, and no overflow."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salus.common.errors import ProtectionError
from salus.privacy.contribution import Contribution, Shape, to_vector
from salus.privacy.protocol.encoding import FixedPoint, choose_encoding, decode, encode


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
