"""A codebook as public bytes in a job, and an image's descriptors counted by its words.

Bag of words: Sivic and Zisserman 2003 (ICCV); square roots of the shares compare such histograms better (Hellinger kernel).
VLAD: Jegou et al. 2010 (CVPR), with the power normalisation of Perronnin et al. 2010 (ECCV).
"""

import base64
import binascii
from typing import Literal

import numpy as np
import numpy.typing as npt

from salus.common.errors import JobError
from salus.common.features.base import Floats

MOST_WORDS = 256
MOST_SIZE = 512  # numbers of a descriptor
MOST_TEXT = 4 * MOST_WORDS * MOST_SIZE // 3 + 4  # characters
LEVELS = 255
Encoding = Literal["histogram", "vlad"]
Doubles = npt.NDArray[np.float64]


def codebook_to_text(centres: Doubles, low: float) -> str:
    """Return centres ``[words, size]`` with entries in `low` .. 1, each rounded to one of 256 levels, as base64."""
    levels = np.rint((np.clip(centres, low, 1.0) - low) / (1.0 - low) * LEVELS)
    return base64.b64encode(levels.astype(np.uint8).tobytes()).decode()


def codebook_from_text(text: str, size: int, low: float) -> Doubles:
    """Return the centres ``[words, size]`` of a text.

    Raises:
        JobError: no base64, or no whole number of 2 to 256 words of this size.
    """
    try:
        data = base64.b64decode(text, validate=True) if len(text) <= MOST_TEXT else b""
    except (binascii.Error, ValueError):
        data = b""
    words, rest = divmod(len(data), size)
    if rest or not 2 <= words <= MOST_WORDS:
        raise JobError(
            f"expected a codebook of 2 to {MOST_WORDS} words of {size} numbers.",
            remedy='Copy it from the result of statistics of kind "codebook" with the same extractor.',
        )
    return np.frombuffer(data, np.uint8).reshape(words, size) / LEVELS * (1.0 - low) + low


def nearest(descriptors: Floats, centres: Doubles) -> npt.NDArray[np.int64]:
    """Return the word of each descriptor: the centre at the smallest Euclidean distance, the first of equal ones."""
    points = descriptors.astype(np.float64)
    found: npt.NDArray[np.int64] = ((centres**2).sum(axis=1) - 2 * points @ centres.T).argmin(axis=1)
    return found


def row_of(places: Floats, descriptors: Floats, centres: Doubles, regions: int, encoding: Encoding) -> Doubles:
    """Return the numbers of an image, of norm at most 1 for each region: zeros where it has no descriptor.

    Args:
        places: ``[n, 2]``, in 0 .. 1.
        regions: number of equal parts into which each side of the image is divided (Lazebnik et al. 2006, CVPR).
    """
    words = nearest(descriptors, centres)
    parts = np.minimum((places * regions).astype(np.int64), regions - 1)
    numbers = parts[:, 0] * regions + parts[:, 1]
    return np.concatenate(
        [_part(descriptors[numbers == part], words[numbers == part], centres, encoding) for part in range(regions**2)]
    )


def _part(descriptors: Floats, words: npt.NDArray[np.int64], centres: Doubles, encoding: Encoding) -> Doubles:
    if encoding == "histogram":
        counts = np.bincount(words, minlength=len(centres)).astype(np.float64)
        return np.asarray(np.sqrt(counts / max(1.0, counts.sum())))
    residuals = np.zeros_like(centres)
    np.add.at(residuals, words, descriptors.astype(np.float64) - centres[words])
    rooted = np.sign(residuals) * np.sqrt(np.abs(residuals))
    return np.asarray(rooted / max(float(np.linalg.norm(rooted)), 1e-12)).reshape(-1)
