"""The mean of one number from 0 to 1 of each item under differential privacy: a count and a sum, both with noise."""

import math

from salus.common.estimates import NOTHING, Estimate, Metric
from salus.common.optional_torch import torch
from salus.common.tasks.base import Totals

SIZE = 2
NORM_L2 = math.sqrt(2)
LEAST_ITEMS = 3.0  # standard errors of the count above zero, to be a divisor


def private_rows_of(values: torch.Tensor) -> torch.Tensor:
    """Return rows of Euclidean norm at most 1, float64 ``[items, 2]``, for values ``[items]`` from 0 to 1."""
    values = values.double().clamp(0, 1)
    return torch.stack([torch.ones_like(values), values], dim=1) / NORM_L2


def mean_of(totals: Totals, noise_sd: float) -> Metric:
    """Return the mean by the delta method, never clipped; nothing where the count is lost in the noise.

    Args:
        noise_sd: standard deviation of the noise in each entry of `totals`.
    """
    items, total = (float(value) * NORM_L2 for value in totals)
    noise_sd *= NORM_L2
    if items < max(0.5, LEAST_ITEMS * noise_sd):
        return NOTHING
    mean = total / items
    noise = noise_sd * math.hypot(1.0, mean) / items
    sampling = math.sqrt(max(mean * (1 - mean), 0.0) / items)  # the largest that a mean of 0 .. 1 can have
    return Estimate(value=mean, standard_error=math.hypot(noise, sampling), noise_error=noise)
