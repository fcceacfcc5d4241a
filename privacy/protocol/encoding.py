"""Fixed point: real vectors to 32-bit words and back, with stochastic rounding from a cryptographic source.

``x = round(2^f * w * clip(update))`` in two's complement. Stochastic rounding is unbiased: the expected word is the exact
value, so errors of many sites cancel. Overflow is impossible for a checked job and is refused when the job starts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from salus.common.errors import ProtectionError
from salus.privacy.contribution import Contribution, Float64Vector, Shape, scale_of
from salus.privacy.prg import CHUNK_WORDS, KEY_BYTES, Mask, Words, add_masks
from salus.privacy.randomness import Random

FRACTION_BITS = 20
FEWEST_FRACTION_BITS = 12  # below 12 bits, rounding errors would dominate a model's update
SUM_BITS = 31


@dataclass(frozen=True)
class FixedPoint:
    """A fixed-point encoding with `fraction_bits` fractional bits."""

    fraction_bits: int

    @property
    def scale(self) -> float:
        """2^f."""
        return float(2**self.fraction_bits)


def choose_encoding(sites: int, clip_norm_l2: float, noise_sd: float = 0.0) -> FixedPoint:
    """Return the finest encoding, at most 20 bits, in which the sum of all sites' vectors fits 31 bits.

    Args:
        noise_sd: standard deviation of all sites' noise together, in the vector's units.

    Guarantees: ``sites * (2^f * max(clip_norm_l2, 1) + 1) + 8 * 2^f * noise_sd < 2^31``; the 1 is the rounding of each site.

    Raises:
        ProtectionError: fewer than 12 bits would be left.
    """
    for bits in range(FRACTION_BITS, FEWEST_FRACTION_BITS - 1, -1):
        if sites * (2**bits * max(clip_norm_l2, 1.0) + 1) + 8 * 2**bits * noise_sd < 2**SUM_BITS:
            return FixedPoint(bits)
    raise ProtectionError(
        f"A sum over {sites} sites with clip norm {clip_norm_l2:g} does not fit in 31 bits.",
        remedy="Lower aggregation.update_clip_norm_l2.",
    )


def encode(contribution: Contribution, shape: Shape, encoding: FixedPoint, random: Random) -> Words:
    """Return the words of a contribution, chunk by chunk; errors as in `to_vector`.

    Args:
        random: source of cryptographic randomness; one key is drawn and expanded.
    """
    factor, tail = scale_of(contribution, shape)
    words = np.empty(shape.length, dtype=np.uint32)
    coins = _Coins(random(KEY_BYTES))
    for start in range(0, shape.parameters, CHUNK_WORDS):
        part = contribution.update[start : start + CHUNK_WORDS]
        coins.round_into(words[start : start + len(part)], part, factor * encoding.scale)
    coins.round_into(words[shape.parameters :], tail, encoding.scale)
    return words


def decode(words: Words, encoding: FixedPoint) -> Float64Vector:
    """Return the real vector of summed words."""
    reals: Float64Vector = words.view(np.int32).astype(np.float64) / encoding.scale
    return reals


class _Coins:
    """Stochastic rounding with one key for all chunks; each chunk is a separate segment, and buffers are reused."""

    def __init__(self, key: bytes) -> None:
        self._mask = [Mask(key)]
        self._segment = 0
        self._coins = np.empty(CHUNK_WORDS, dtype=np.uint32)
        self._scaled = np.empty(CHUNK_WORDS, dtype=np.float64)
        self._fractions = np.empty(CHUNK_WORDS, dtype=np.float64)

    def round_into(self, words: Words, values: npt.NDArray[np.floating[Any]], scale: float) -> None:
        """Write each ``scale * value`` rounded down or up, up with the probability of its fraction, in two's complement.

        Args:
            words, values: of equal length.
        """
        for start in range(0, len(values), CHUNK_WORDS):
            count = min(CHUNK_WORDS, len(values) - start)
            coins, scaled, fractions = self._coins[:count], self._scaled[:count], self._fractions[:count]
            coins[:] = 0
            add_masks(coins, self._mask, self._segment)
            self._segment += 1
            np.multiply(coins, 2.0**-32, out=fractions)
            np.multiply(values[start : start + count], scale, out=scaled, dtype=np.float64)
            np.add(scaled, fractions, out=scaled)
            np.floor(scaled, out=scaled)
            # Safe because the encoding was chosen so that every value fits 31 bits.
            words[start : start + count].view(np.int32)[:] = scaled
