"""The amount of noise in a protected sum."""

import math

from salus.common.job import Job
from salus.privacy.contribution import Shape
from salus.privacy.dp.plan import plan_of, sensitivity_l2
from salus.privacy.masking.protection import noise_share


def noise_in_sum(job: Job, shape: Shape, *, roster: int, sites: int) -> float:
    """Return the standard deviation of the noise in each entry of a sum, in the vector's own units; 0 without noise.

    Args:
        roster: number of sites on the session's roster, which determines the shares of distributed noise.
        sites: number of sites in the sum; each has added the whole noise (local) or its share (distributed).

    Edge cases: the rounding to a grid, less than 2^-12 of a unit for each site, is not included.
    """
    plan = plan_of(job)
    if plan is None:
        return 0.0
    if plan.mode == "local":
        return plan.multiplier(shape.kind) * sensitivity_l2(job, shape.kind) * math.sqrt(sites)
    encoding, share = noise_share(job, shape, roster)
    return share / encoding.scale * math.sqrt(sites)
