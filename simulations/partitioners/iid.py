"""Every site gets a random equal share."""

from collections.abc import Sequence

import numpy as np

from salus.common.strict import Strict
from salus.simulations.partitioners import Patient


def partition(patients: Sequence[Patient], sites: int, settings: Strict, rng: np.random.Generator) -> list[int]:
    """Return sites assigned in turn over a random order; sizes differ by at most one."""
    owners = np.empty(len(patients), dtype=np.int64)
    owners[rng.permutation(len(patients))] = np.arange(len(patients)) % sites
    return [int(owner) for owner in owners]
