"""Quantity skew: sites of different size with similar labels."""

from collections.abc import Sequence

import numpy as np

from salus.simulations.partitioners import Patient, number


def partition(patients: Sequence[Patient], sites: int, argument: str, rng: np.random.Generator) -> list[int]:
    """Return sites whose sizes follow a Dirichlet distribution; `argument` is its concentration, 1 if absent."""
    shares = rng.dirichlet([number(argument, 1.0, "quantity")] * sites)
    cuts = (np.cumsum(shares)[:-1] * len(patients)).astype(np.int64)
    owners = [0] * len(patients)
    for site, part in enumerate(np.split(rng.permutation(len(patients)), cuts)):
        for row in part:
            owners[int(row)] = site
    return owners
