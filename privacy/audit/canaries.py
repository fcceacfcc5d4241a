"""Canaries: items that are made up for an audit, and how much a released update speaks for each of them."""

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import hadamard
from torch import nn

from salus.common.batch import DTYPES, THERE, Batch, Field, Spec
from salus.privacy.dp.calls import Loss
from salus.privacy.dp.clipped import clip_factors
from salus.privacy.dp.clipping import OneItem

AT_ONCE = 64  # canaries in one pass
LARGEST_NUMBERS = 2**26  # of gradients held at once: 256 MB
STEP = 1e-4  # of the difference quotient, relative to a direction of length one, in double precision
DoubleVector = npt.NDArray[np.float64]


def make_canaries(spec: Spec, count: int, rng: np.random.Generator) -> Batch:
    """Return items of a spec whose gradients point in very different directions, without its noise fields.

    A floating-point field has the values -1 and 1: rows of a Hadamard matrix with random signs, which are orthogonal
    as long as there are no more canaries than numbers in the field, otherwise random. Integers are drawn uniformly.
    """
    return Batch({name: _field(name, field, count, rng) for name, field in spec.items() if not field.noise})


def _field(name: str, field: Field, count: int, rng: np.random.Generator) -> torch.Tensor:
    size = (count, *field.shape)
    if name.endswith(THERE):
        return torch.ones(size, dtype=DTYPES[field.dtype])
    if field.dtype == "int64":
        return torch.from_numpy(rng.integers(field.low, field.high, size=size))
    numbers = math.prod(field.shape)
    order = 1 << max(0, (numbers - 1).bit_length())
    signs = rng.choice([-1.0, 1.0], size=(count, numbers))
    if count <= order <= 2**13:  # a larger matrix takes too much memory, and so many random signs are nearly orthogonal
        rows = hadamard(order)[rng.permutation(order)[:count]][:, rng.permutation(order)[:numbers]]
        signs = rows * signs[:1]
    return torch.from_numpy(signs.astype(np.float32)).reshape(size)


def scores(
    model: nn.Module,
    loss: Loss,
    canaries: Batch,
    update: DoubleVector,
    clip_norm_l2: float,
    write: Callable[[nn.Module, DoubleVector], None],
    start: DoubleVector,
    noises: Sequence[float],
) -> DoubleVector:
    """Return how much of each canary's clipped gradient is in an update, by the best linear estimate: ``[noises, canaries]``.

    Args:
        model: the network, in any state; it is copied.
        loss: of a model and a batch, ``[items]``.
        update: as released: a step against the sum of clipped gradients, in the order of `write`.
        write: puts a vector of parameters into a model.
        start: the parameters to which the update refers.
        noises: guesses of the standard deviation of everything else in one entry of that sum, over that of a canary's share;
            above 0.

    Gradients of canaries are alike in deeper networks. The estimate divides by their inner products, so that what all have
    in common says nothing about any. For networks of many parameters these are estimated from a part of the entries.
    """
    length = float(np.linalg.norm(update))
    if length == 0:
        return np.zeros((len(noises), len(canaries)))
    own = copy.deepcopy(model).cpu().eval()
    write(own, start)
    rows, factors = _gradients(own, loss, canaries, clip_norm_l2)
    products = factors[:, None] * rows * factors[None]
    slopes = -_slopes(own.double(), loss, canaries.double(), update / length, write, start) * length * factors
    unit = np.eye(len(products))
    return np.stack([np.linalg.solve(products + noise**2 * unit, slopes) for noise in noises])


def _slopes(
    model: nn.Module,
    loss: Loss,
    canaries: Batch,
    along: DoubleVector,
    write: Callable[[nn.Module, DoubleVector], None],
    start: DoubleVector,
) -> DoubleVector:
    """Return every loss's derivative along a direction of length one, by a central difference in double precision."""
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            write(model, start + sign * STEP * along)
            parts = range(0, len(canaries), AT_ONCE)
            values.append(torch.cat([loss(model, canaries.rows(slice(at, at + AT_ONCE))).double() for at in parts]))
    slopes: DoubleVector = ((values[0] - values[1]) / (2 * STEP)).numpy()
    return slopes


def _gradients(model: nn.Module, loss: Loss, canaries: Batch, clip_norm_l2: float) -> tuple[DoubleVector, DoubleVector]:
    """Return the inner products of the gradients, ``[canaries, canaries]``, and each one's clipping factor."""
    item = OneItem(model, loss)
    parameters = {f"model.{name}": p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def one(values: dict[str, torch.Tensor], fields: dict[str, torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = torch.func.functional_call(item, values, (fields,))
        return found

    each = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0))
    size = sum(p.numel() for p in parameters.values())
    kept = min(size, max(1, LARGEST_NUMBERS // len(canaries)))
    chosen = torch.randperm(size, generator=torch.Generator().manual_seed(0))[:kept].sort().values
    at_once = min(AT_ONCE, max(1, LARGEST_NUMBERS // size))
    parts, norms = [], []
    for first in range(0, len(canaries), at_once):
        found = each(parameters, dict(canaries.rows(slice(first, first + at_once)).fields))
        whole = torch.cat([part.flatten(1) for part in found.values()], dim=1)
        norms.append(whole.double().norm(dim=1))
        parts.append(whole if kept == size else whole[:, chosen])
    rows = torch.cat(parts)
    products = (rows @ rows.T).double().numpy() * (size / kept)
    return products, clip_factors(torch.cat(norms), clip_norm_l2).numpy()
