"""Gaussian noise from a cryptographic stream, by Box and Muller, released on a grid.

What is not proven: the noise is computed in double precision, so its distribution differs from the ideal one by rounding. A
release is rounded to a grid of sigma / 2^20, which is far coarser than those errors and removes the low-order bits that
known attacks use (Mironov 2012, doi 10.1145/2382196.2382264). Distributed mode uses `discrete_gaussian`, which is exact.
"""

import math

import numpy as np
import torch

from salus.privacy.randomness import Stream

GRID_BITS = 20


def gaussian(count: int, sigma: float, stream: Stream) -> torch.Tensor:
    """Return independent normal numbers of standard deviation `sigma`, float64 ``[count]``; 53 bits reach 8.5 sigma."""
    half = (count + 1) // 2
    radius = torch.from_numpy(stream.uniforms(half)).log_().mul_(-2).sqrt_()
    angle = torch.from_numpy(stream.words32(half).astype(np.float64)).mul_(2 * math.pi * 2.0**-32)
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)])[:count] * sigma


def noised(values: torch.Tensor, sigma: float, stream: Stream) -> torch.Tensor:
    """Return `values` plus noise, on the grid of sigma / 2^20, in the shape and type of `values`."""
    grid = sigma * 2.0**-GRID_BITS
    total = values.detach().to("cpu", torch.float64).flatten() + gaussian(values.numel(), sigma, stream)
    return (total / grid).round_().mul_(grid).to(values.device, values.dtype).reshape(values.shape)
