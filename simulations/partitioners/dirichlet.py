"""Label skew: each label is divided among sites in Dirichlet proportions (Hsu et al. 2019, arXiv 1909.06335)."""

from collections.abc import Sequence

import numpy as np

from salus.simulations.partitioners import Patient, number


def partition(patients: Sequence[Patient], sites: int, argument: str, rng: np.random.Generator) -> list[int]:
    """Return sites; `argument` is the concentration, smaller is more skewed, 0.5 if absent."""
    concentration = number(argument, 0.5, "dirichlet")
    owners = [0] * len(patients)
    for label in sorted({patient.label for patient in patients}):
        rows = rng.permutation([row for row, patient in enumerate(patients) if patient.label == label])
        cuts = (np.cumsum(rng.dirichlet([concentration] * sites))[:-1] * len(rows)).astype(np.int64)
        for site, part in enumerate(np.split(rows, cuts)):
            for row in part:
                owners[int(row)] = site
    return owners
