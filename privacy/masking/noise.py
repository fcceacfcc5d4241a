"""A site's share of distributed noise, added to its words before they are masked."""

import numpy as np

from salus.privacy.dp.discrete_gaussian import DiscreteGaussian
from salus.privacy.prg import CHUNK_WORDS, Words
from salus.privacy.randomness import Stream


def add_discrete_noise(words: Words, sigma: float, stream: Stream) -> None:
    """Add discrete Gaussian noise of standard deviation `sigma` words to each word in place, modulo 2^32.

    A value beyond 31 bits wraps around; that depends only on the noised value, so it costs accuracy, not privacy.
    """
    sampler = DiscreteGaussian(sigma, stream)
    for start in range(0, len(words), CHUNK_WORDS):
        part = words[start : start + CHUNK_WORDS]
        part += sampler.sample(len(part)).astype(np.uint32)  # two's complement, modulo 2^32
