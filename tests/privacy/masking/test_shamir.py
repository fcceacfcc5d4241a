"""Shares of a secret."""

import os
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salus.common.errors import ProtectionError
from salus.privacy.masking.shamir import PRIME, combine, split


@given(st.binary(min_size=32, max_size=32), st.integers(1, 9), st.integers(0, 6), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_gives_the_secret(secret: bytes, threshold: int, more: int, shuffle: object) -> None:
    indices = list(range(1, threshold + more + 1))
    shares = split(secret, threshold, indices, os.urandom)
    chosen = indices[:]
    shuffle.shuffle(chosen)  # type: ignore[attr-defined]
    assert combine({i: shares[i] for i in chosen[:threshold]}, threshold) == secret


def interpolated_at_zero(shares: dict[int, bytes]) -> Fraction:
    """Lagrange's formula with fractions, from the definition; a multiple of the modulus away from the secret."""
    total = Fraction(0)
    for i, share in shares.items():
        term = Fraction(int.from_bytes(share, "big"))
        for j in shares:
            if j != i:
                term *= Fraction(-j, i - j)
        total += term
    return total


@given(st.sets(st.integers(1, 200), min_size=2, max_size=6), st.lists(st.binary(min_size=32, max_size=32), min_size=3))
def test_many_secrets_of_the_same_holders_agree_with_the_formula(holders: set[int], secrets: list[bytes]) -> None:
    """The weights of a set of holders are computed once, and used for every secret and for no other set."""
    for secret in secrets:
        shares = split(secret, len(holders), sorted(holders), os.urandom)
        found = interpolated_at_zero(shares)
        assert combine(shares, len(holders)) == secret
        assert found.numerator * pow(found.denominator, -1, PRIME) % PRIME == int.from_bytes(secret, "big")


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
