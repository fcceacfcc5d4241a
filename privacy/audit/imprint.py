"""An imprint attack: crafted parameters of a linear classifier, from whose gradient single images can be read.

After Fowl et al. 2022, "Robbing the Fed" (arXiv 2110.13057), with classes that no image has in place of a hidden layer. Each
of these classes is the most probable one for a narrow range of one fixed combination of the pixels, so its row of the gradient
is the sum of the images in that range, and its bias their number. A range with one image gives that image exactly. A sum over
sites only adds such sums.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

LARGEST = 1e6  # of a logit: beyond it, single precision cannot tell neighbouring ranges apart
SHARP = 16.0  # difference of the logits of two neighbouring ranges, in the middle of one
LEAST = 1e-3  # of the largest bias: less counts as no image
DoubleVector = npt.NDArray[np.float64]


def combination(features: int) -> DoubleVector:
    """Return the weights of the pixels by whose sum the images are told apart: random signs over the number of pixels.

    Unlike the brightness it is nearly normally distributed for images of several kinds.
    """
    signs: DoubleVector = np.random.default_rng(0).choice([-1.0, 1.0], size=features) / features
    return signs


def crafted(classes: int, ranges: int, features: int, mean: float, spread: float) -> DoubleVector:
    """Return the parameters of a linear layer, rows then biases, ``[(classes + ranges) * (features + 1)]``.

    Args:
        classes: the first rows, of the job's real classes; no image is ever close to them.
        ranges: the rows behind them, each for one range of the combination with about as many images.
        mean, spread: of the combination, as an attacker knows them from public images.
    """
    weights, biases = np.zeros((classes + ranges, features)), np.full(classes + ranges, -LARGEST)
    edges = mean + spread * stats.norm.ppf(np.arange(1, ranges) / ranges)
    narrowest = spread * math.sqrt(2 * math.pi) / ranges
    slope = min(SHARP / narrowest, LARGEST / (ranges / 2 * (abs(mean) + 4 * spread)))
    places = np.arange(ranges) - ranges // 2  # around zero, so that the logits stay small
    weights[classes:] = slope * places[:, None] * combination(features)
    sums = np.concatenate([[0.0], np.cumsum(edges)])
    biases[classes:] = -slope * (sums - sums[ranges // 2])
    return np.concatenate([weights.ravel(), biases])


def readable(update: DoubleVector, classes: int, ranges: int, features: int) -> DoubleVector:
    """Return the images that an update shows, ``[found, features]``; a range with several images gives their mean."""
    rows = update[: (classes + ranges) * features].reshape(classes + ranges, features)[classes:]
    counts = update[(classes + ranges) * features :][classes:]
    seen = np.abs(counts) > LEAST * float(np.abs(counts).max(initial=0.0))
    images: DoubleVector = rows[seen] / counts[seen][:, None]
    return images


def recovered(images: DoubleVector, truth: DoubleVector, tolerance: float) -> int:
    """Return how many true images have a readable one within this root mean square difference.

    Args:
        truth: ``[images, features]``.
    """
    if not len(images):
        return 0
    squares = (truth**2).sum(1)[:, None] - 2 * truth @ images.T + (images**2).sum(1)[None]
    return int((squares.min(1) / truth.shape[1] <= tolerance**2).sum())
