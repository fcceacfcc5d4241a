"""Which patients take part in a step: each one independently with the same probability (Poisson sampling), kept secret.

Shuffled batches of a fixed size have a weaker guarantee: with 10 000 patients, batches of 100, 10 epochs and noise multiplier
0.8, epsilon is 3.1 for Poisson sampling and 24 for shuffled batches without amplification.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from salus.privacy.randomness import Stream


def poisson_sample(patients: int, sampling_rate: float, stream: Stream) -> npt.NDArray[np.int64]:
    """Return the numbers of the sampled patients, ascending; empty is a valid sample.

    Args:
        patients: number of patients.
        sampling_rate: probability with which each one is sampled, independently of all others.
    """
    return np.flatnonzero(stream.uniforms(patients) < sampling_rate).astype(np.int64)


def capped(images: Sequence[int], most: int, stream: Stream) -> list[int]:
    """Return at most `most` of a patient's images, chosen at random without regard to their content."""
    if len(images) <= most:
        return list(images)
    order = np.argsort(stream.uniforms(len(images)))[:most]
    return [images[place] for place in sorted(order.tolist())]
