"""Secret sharing (Shamir 1979, Comm. ACM 22(11)) over GF(p), p = 2^521 - 1, a Mersenne prime.

Any t shares reconstruct the secret; t - 1 shares are independent of it, because the coefficients are uniform in the field.
"""

import functools
from collections.abc import Mapping, Sequence

from salus.common.errors import ProtectionError
from salus.privacy.randomness import Random

PRIME = 2**521 - 1
SHARE_BYTES = 66
SECRET_BYTES = 32


def split(secret: bytes, threshold: int, indices: Sequence[int], random: Random) -> dict[int, bytes]:
    """Return one share per index, 66 bytes big-endian each.

    Args:
        secret: 32 bytes, big-endian.
        indices: site ids, positive and different.
        random: source of cryptographic randomness, such as `os.urandom`.

    Raises:
        ProtectionError: a secret of another length, an index that is zero or twice, or fewer indices than the threshold.
    """
    if len(secret) != SECRET_BYTES or len(set(indices)) != len(indices) or min(indices, default=0) < 1:
        raise ProtectionError(
            "Expected a secret of 32 bytes and different positive indices.", remedy="Report this as a bug."
        )
    if not 1 <= threshold <= len(indices):
        raise ProtectionError(
            f"Expected at least {threshold} share holders, got {len(indices)}.", remedy="Wait for more sites."
        )
    coefficients = [int.from_bytes(secret, "big"), *(_uniform(random) for _ in range(threshold - 1))]
    return {index: _evaluate(coefficients, index).to_bytes(SHARE_BYTES, "big") for index in indices}


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret from at least `threshold` shares by Lagrange interpolation at zero.

    Raises:
        ProtectionError: too few shares, a share outside the field, or shares that do not give a 32-byte secret.
    """
    if len(shares) < threshold:
        raise ProtectionError(f"Expected {threshold} shares, got {len(shares)}.", remedy="Wait for more sites.")
    chosen = tuple(sorted(shares)[:threshold])
    secret = 0
    for i, weight in zip(chosen, _weights(chosen), strict=True):
        value = int.from_bytes(shares[i], "big")
        if len(shares[i]) != SHARE_BYTES or value >= PRIME:
            raise ProtectionError(f"The share of site {i} is not in the field.", remedy="Leave that site out.")
        secret = (secret + value * weight) % PRIME
    if secret >> (8 * SECRET_BYTES):
        raise ProtectionError("The shares are inconsistent.", remedy="A site sent a wrong share; see the transcript.")
    return secret.to_bytes(SECRET_BYTES, "big")


@functools.lru_cache(maxsize=256)
def _weights(chosen: tuple[int, ...]) -> tuple[int, ...]:
    """Return the Lagrange weights at zero of these indices.

    They depend on who holds the shares only, so a coordinator that opens hundreds of secrets with the shares of the same
    sites computes them once.
    """
    weights = []
    for i in chosen:
        numerator = denominator = 1
        for j in chosen:
            if j != i:
                numerator = numerator * j % PRIME
                denominator = denominator * (j - i) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return tuple(weights)


def _evaluate(coefficients: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value


def _uniform(random: Random) -> int:
    """Return a uniform field element by rejection."""
    while True:
        candidate = int.from_bytes(random(SHARE_BYTES), "big") >> (8 * SHARE_BYTES - 521)
        if candidate < PRIME:
            return candidate
