"""Exact samples of the discrete Gaussian, many at a time (Canonne, Kamath, Steinke 2020, arXiv 2004.00010, algorithm 3).

    propose   Y = sign * floor(-t ln U), the discrete Laplace law with t = floor(sigma) + 1   (0 with sign minus is thrown away)
    accept    with probability exp(-(|Y| - sigma^2 / t)^2 / (2 sigma^2))

The paper builds both from fair coins. Here U is a uniform real number of which 64 bits are drawn first; floating point
decides only if its error, bounded from above, cannot change the answer. In the remaining cases, about one in 10^9, more
bits of the same U are drawn and compared in decimal arithmetic of growing precision. So the distribution is exact for the
value of sigma as a double.
"""

import decimal
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from salus.privacy.randomness import Stream

Integers = npt.NDArray[np.int64]
FIRST_BITS = 64
# log and the arithmetic around it err by a few units in the last place (2^-52); 2^-46 is sixty times that.
RELATIVE_ERROR = 2.0**-46
LARGEST_SIGMA = 2.0**40
CHUNK = 1 << 16


class _Real:
    """A uniform real number in (0, 1) whose bits are drawn when needed."""

    def __init__(self, word: int, stream: Stream) -> None:
        self._bits, self._length, self._stream = word, FIRST_BITS, stream

    def bounds(self) -> tuple[Fraction, Fraction]:
        """Return the interval in which the number is known to lie."""
        return Fraction(self._bits, 1 << self._length), Fraction(self._bits + 1, 1 << self._length)

    def refine(self) -> None:
        """Draw 64 more bits."""
        self._bits = (self._bits << 64) | int(self._stream.words64(1)[0])
        self._length += 64

    def below_exp(self, exponent: Fraction) -> bool:
        """Return whether this number is below ``exp(-exponent)``, decided exactly; the exponent is rational, not 0."""
        digits = 40
        while True:
            low, high = _exp_bounds(exponent, digits)
            mine_low, mine_high = self.bounds()
            if mine_high <= low:
                return True
            if mine_low >= high:
                return False
            self.refine()
            digits += 20


def _exp_bounds(exponent: Fraction, digits: int) -> tuple[Fraction, Fraction]:
    """Return rational bounds of ``exp(-exponent)`` that agree to about `digits` digits."""
    # Division and exp are rounded correctly to `digits` digits; the quotient's error grows by the exponent's size in exp.
    with decimal.localcontext(prec=digits + 10, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX):
        value = (-(decimal.Decimal(exponent.numerator) / decimal.Decimal(exponent.denominator))).exp()
        slack = value * (1 + abs(int(exponent))) * decimal.Decimal(10) ** -(digits + 5)
        return Fraction(value - slack), Fraction(value + slack)


def _geometric_exactly(real: _Real, scale: int) -> int:
    """Return ``floor(-scale * ln U)``: the k with ``exp(-(k + 1) / scale) < U <= exp(-k / scale)``."""
    low, high = 0, 1
    while real.below_exp(Fraction(high, scale)):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if real.below_exp(Fraction(middle, scale)) else (low, middle)
    return low


class DiscreteGaussian:
    """Samples integers x with probability proportional to ``exp(-x^2 / (2 sigma^2))``.

    Args:
        sigma: at least 2^-10 and at most 2^40.
        always_exact: decide everything in exact arithmetic; for tests of that path.
    """

    def __init__(self, sigma: float, stream: Stream, *, always_exact: bool = False) -> None:
        if not 2.0**-10 <= sigma <= LARGEST_SIGMA:
            raise ValueError(f"expected sigma between 2^-10 and 2^40, got {sigma!r}")
        self._sigma, self._stream, self._exact = sigma, stream, always_exact
        self._scale = int(sigma) + 1
        self._variance = Fraction(sigma) ** 2

    def sample(self, count: int) -> Integers:
        """Return independent samples, int64 ``[count]``."""
        result = np.empty(count, dtype=np.int64)
        filled = 0
        while filled < count:
            accepted = self._round(min(CHUNK, 2 * (count - filled) + 16))[: count - filled]
            result[filled : filled + len(accepted)] = accepted
            filled += len(accepted)
        return result

    def _round(self, proposals: int) -> Integers:
        """Propose samples and return the accepted ones."""
        magnitude = self._magnitudes(proposals)
        negative = (self._stream.words32(proposals) & np.uint32(1)).astype(bool)
        kept = ~(negative & (magnitude == 0))
        magnitude, negative = magnitude[kept], negative[kept]
        accepted = self._accepts(magnitude)
        signed: Integers = np.where(negative, -magnitude, magnitude)[accepted]
        return signed

    def _magnitudes(self, count: int) -> Integers:
        words = self._stream.words64(count)
        # U lies in (word, word + 1) / 2^64; the logarithm is monotone, so the two ends bound the result.
        low_end = np.maximum(words.astype(np.float64), 0.5) * 2.0**-FIRST_BITS
        high_end = (words.astype(np.float64) + 1.0) * 2.0**-FIRST_BITS
        largest = -self._scale * np.log(low_end) * (1 + RELATIVE_ERROR) + self._scale * RELATIVE_ERROR
        smallest = -self._scale * np.log(high_end) * (1 - RELATIVE_ERROR) - self._scale * RELATIVE_ERROR
        result = np.floor(largest).astype(np.int64)
        unsure = (result != np.floor(smallest).astype(np.int64)) | (words == 0)
        if self._exact:
            unsure[:] = True
        for place in np.flatnonzero(unsure):
            result[place] = _geometric_exactly(_Real(int(words[place]), self._stream), self._scale)
        return result

    def _accepts(self, magnitude: Integers) -> npt.NDArray[np.bool_]:
        words = self._stream.words64(len(magnitude))
        sigma, scale = self._sigma, float(self._scale)
        away = magnitude.astype(np.float64) - sigma * sigma / scale
        exponent = away * away / (2 * sigma * sigma)
        # `away` may cancel, so its error is absolute: a few units in the last place of its two terms.
        error_away = (magnitude.astype(np.float64) + sigma) * RELATIVE_ERROR
        error = (2 * np.abs(away) + error_away) * error_away / (2 * sigma * sigma) + exponent * RELATIVE_ERROR
        needed = -np.log((words.astype(np.float64) + 0.5) * 2.0**-FIRST_BITS)
        # The 64 drawn bits leave U open by 2^-64, which moves -ln U by 2^-64 / U.
        open_ = 2.0**-62 * np.exp(np.minimum(needed, 60.0)) + RELATIVE_ERROR * (needed + 1)
        accepted: npt.NDArray[np.bool_] = needed > exponent
        unsure = np.abs(needed - exponent) <= error + open_
        if self._exact:
            unsure[:] = True
        for place in np.flatnonzero(unsure):
            accepted[place] = self._accepts_exactly(int(magnitude[place]), int(words[place]))
        return accepted

    def _accepts_exactly(self, magnitude: int, word: int) -> bool:
        away = magnitude - self._variance / self._scale
        exponent = away * away / (2 * self._variance)
        return exponent == 0 or _Real(word, self._stream).below_exp(exponent)


def discrete_gaussian(count: int, sigma: float, stream: Stream) -> Integers:
    """Return independent samples of the discrete Gaussian, int64 ``[count]``; see `DiscreteGaussian`."""
    return DiscreteGaussian(sigma, stream).sample(count)
