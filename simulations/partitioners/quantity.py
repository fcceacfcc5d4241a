"""Quantity skew: sites of different size with similar labels."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from salus.common.registry import with_settings
from salus.common.strict import Strict
from salus.simulations.partitioners import Patient


class QuantitySettings(Strict):
    """Settings of `quantity`.

    Args:
        concentration: Concentration of the Dirichlet distribution of the sizes; smaller is more skewed.
    """

    concentration: Annotated[float, Field(gt=0)] = 1.0  # every division of the patients is equally likely


@with_settings(QuantitySettings)
def partition(
    patients: Sequence[Patient], sites: int, settings: QuantitySettings, rng: np.random.Generator
) -> list[int]:
    """Return sites whose sizes follow a Dirichlet distribution."""
    shares = rng.dirichlet([settings.concentration] * sites)
    cuts = (np.cumsum(shares)[:-1] * len(patients)).astype(np.int64)
    owners = [0] * len(patients)
    for site, part in enumerate(np.split(rng.permutation(len(patients)), cuts)):
        for row in part:
            owners[int(row)] = site
    return owners
