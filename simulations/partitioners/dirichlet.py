"""Label skew: each label is divided among sites in Dirichlet proportions (Hsu et al. 2019, arXiv 1909.06335)."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from salus.common.registry import with_settings
from salus.common.strict import Strict
from salus.simulations.partitioners import Patient


class DirichletSettings(Strict):
    """Settings of `dirichlet`.

    Args:
        concentration: Concentration of the Dirichlet distribution of each label over the sites; smaller is more skewed.
    """

    concentration: Annotated[float, Field(gt=0)] = 0.5  # labels differ visibly between the sites


@with_settings(DirichletSettings)
def partition(
    patients: Sequence[Patient], sites: int, settings: DirichletSettings, rng: np.random.Generator
) -> list[int]:
    """Return sites."""
    owners = [0] * len(patients)
    for label in sorted({patient.label for patient in patients}):
        rows = rng.permutation([row for row, patient in enumerate(patients) if patient.label == label])
        cuts = (np.cumsum(rng.dirichlet([settings.concentration] * sites))[:-1] * len(rows)).astype(np.int64)
        for site, part in enumerate(np.split(rows, cuts)):
            for row in part:
                owners[int(row)] = site
    return owners
