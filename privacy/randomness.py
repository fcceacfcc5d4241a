"""Randomness for privacy: one 32-byte key from the operating system, expanded by AES-256 in counter mode.

Anyone who could predict it could subtract the noise, so a statistical generator (Mersenne Twister, Philox) is not safe.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from salus.privacy.prg import keystream

KEY_BYTES = 32
Random = Callable[[int], bytes]


class Stream:
    """A stream of random words; every call uses a new segment of the key stream.

    Args:
        random: source of cryptographic randomness such as `os.urandom`; called once.
    """

    def __init__(self, random: Random) -> None:
        self._key = random(KEY_BYTES)
        self._segment = 0

    def words64(self, count: int) -> npt.NDArray[np.uint64]:
        """Return uniform 64-bit words, ``[count]``."""
        words = keystream(self._key, self._segment, 2 * count)
        self._segment += 1
        return words.view(np.uint64)

    def words32(self, count: int) -> npt.NDArray[np.uint32]:
        """Return uniform 32-bit words, ``[count]``."""
        words = keystream(self._key, self._segment, count)
        self._segment += 1
        return words

    def uniforms(self, count: int) -> npt.NDArray[np.float64]:
        """Return uniform numbers in (0, 1) with 53 random bits, ``[count]``; never 0 and never 1."""
        return ((self.words64(count) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
