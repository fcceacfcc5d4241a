"""Property inference: a classifier of updates, which tells whether a site's data have a property.

After Ateniese et al. 2015 (arXiv 1306.4447) and Melis et al. 2019 (arXiv 1805.04049): a meta-classifier learns from the
updates of shadow sites, whose property the attacker chose. All updates here begin from the same parameters, so the symmetries of
a network that Ganju et al. 2018 had to remove do not arise. The classifier is linear, so a sum's score is the sum of the scores.
"""

import numpy as np
import numpy.typing as npt

DoubleVector = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
SHRINKAGE = 0.1  # of the mean square of an update: there are far fewer updates than parameters


def learn(updates: DoubleVector, truth: Flags, *, noisy: bool = False) -> DoubleVector:
    """Return the weights of a linear classifier, ``[parameters]``.

    Args:
        updates: of shadow sites, ``[updates, parameters]``.
        truth: whether each of these sites has the property.
        noisy: whether the updates to be attacked have much more noise than these: then the difference of the means is the best
            direction (a matched filter), otherwise ridge regression.
    """
    if truth.all() or not truth.any():
        return np.zeros(updates.shape[1])
    if noisy:
        difference: DoubleVector = updates[truth].mean(0) - updates[~truth].mean(0)
        return difference
    rows = updates - updates.mean(0)
    products = rows @ rows.T
    wanted = truth - truth.mean()
    ridge = SHRINKAGE * float(np.trace(products)) / len(rows) + 1e-12
    weights: DoubleVector = rows.T @ np.linalg.solve(products + ridge * np.eye(len(rows)), wanted)
    return weights


def thinned(update: DoubleVector, sizes: list[int], most: int) -> DoubleVector:
    """Return an update with at most so many numbers of each tensor, evenly spaced, so that large networks fit into memory.

    Args:
        sizes: of the tensors, in order. Small ones, such as the biases that show the share of a class best, stay whole.
    """
    parts, at = [], 0
    for size in sizes:
        step = max(1, -(-size // most))
        parts.append(update[at : at + size : step])
        at += size
    return np.concatenate(parts)
