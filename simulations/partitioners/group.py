"""One site for each group in the data, such as the hospital."""

from collections.abc import Sequence

import numpy as np

from salus.common.errors import ConfigError
from salus.common.strict import Strict
from salus.simulations.partitioners import Patient


def partition(patients: Sequence[Patient], sites: int, settings: Strict, rng: np.random.Generator) -> list[int]:
    """Return the site of each group, groups in alphabetical order; raises ConfigError unless there are `sites` groups."""
    groups = sorted({patient.group for patient in patients})
    if len(groups) != sites:
        raise ConfigError(
            f"Expected {sites} groups in the data, found {len(groups)}.", remedy=f"Use --sites {len(groups)}."
        )
    return [groups.index(patient.group) for patient in patients]
