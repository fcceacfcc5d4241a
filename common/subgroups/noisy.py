"""Subgroups in a vector with noise: ``[row of all patients, row of each group] / norm``, and the best total from all of them."""

import math

from salus.common.subgroups.base import Groups
from salus.common.subgroups.exact import Float64Array


def rows_of(vector: Float64Array, groups: Groups) -> Float64Array:
    """Return ``[1 + groups, row]`` from a summed vector; its noise is `Groups.norm_l2` times that of the vector."""
    return vector.reshape(1 + groups.count, -1) * groups.norm_l2


def total_of(rows: Float64Array, groups: Groups) -> Float64Array:
    """Return the rows of all patients as exactly as possible.

    The groups of each attribute add up to the same total, with the noise of all of them. The mean of these totals weighted by
    the inverse of their variances has the noise of one row times `total_noise` (Gauss and Markov).
    """
    total: Float64Array = rows[0].copy()
    for block in groups.blocks.values():
        total += rows[1:][block].mean(axis=0)  # the sum, weighted by one over the number of groups
    total *= total_noise(groups) ** 2
    return total


def total_noise(groups: Groups) -> float:
    """Return the noise of `total_of` as a share of that of one row.

    >>> total_noise(Groups({}))
    1.0
    """
    return 1 / math.sqrt(1 + sum(1 / len(attribute.values) for attribute in groups.attributes.values()))
