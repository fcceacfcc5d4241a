"""Norms and clipped sums of per-patient gradients from a layer's activations and output gradients, in double precision.

The gradient of patient p is ``B_p^T A_p`` with the unfolded activations ``A_p`` ``[T, d]`` and output gradients ``B_p``
``[T, o]`` of all its T positions. Its norm needs either that product (cost ``T d o``) or only the two Gram matrices,
``sum((A_p A_p^T) * (B_p B_p^T))`` (cost ``T^2 (d + o)``, "ghost norm", Goodfellow 2015, arXiv 1510.01799; Li et al. 2021,
arXiv 2110.05679). The clipped sum is one further contraction of what is stored (Bu et al. 2023, arXiv 2210.00038).

Everything from the activations on is computed in double precision: the squares and products of single-precision numbers
neither overflow nor underflow there. No route here is chosen by a value.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from salus.privacy.dp.patients import Patients

# A Gram matrix in double precision must win by some margin against a product in single precision; measured on two CPU cores.
GHOST_MARGIN = 0.5
UNIT = 2.0**-52  # twice the largest relative error of one rounding in double precision
Gradients = dict[torch.Tensor, torch.Tensor]  # by parameter


@dataclass
class Passed:
    """One layer's contribution: the squared norms of its per-patient gradients, and how to sum them with factors.

    Args:
        squared_norms: upper bounds, float64 ``[patients]``.
        weighted: from one factor per patient, float64 ``[patients]``, to the float64 gradient of each of the layer's
            parameters. A patient with factor 0 contributes exactly nothing, even if its gradient is NaN or infinite.
    """

    squared_norms: torch.Tensor
    weighted: Callable[[torch.Tensor], Gradients]


def ghost_pays(positions: int, d: int, o: int) -> bool:
    """Return whether Gram matrices are cheaper than the gradient itself; the sizes are public."""
    return positions * (d + o) < GHOST_MARGIN * d * o


def ghost_norms(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return an upper bound on ``|| b_p^T a_p ||^2`` for each patient from Gram matrices, float64 ``[P]``.

    The norm is a sum of products that may cancel. A crafted model can make it cancel to zero while the gradient is
    huge. So the bound on the rounding error is added: with u the unit of double precision, the error of an inner product of n
    terms is at most n u times the sum of their absolute values (Higham 2002, section 3.1), hence the error of the whole at
    most ``(d + o + T^2) u (sum_t |a_t| |b_t|)^2``. For ordinary networks this is far below single precision.

    Args:
        a, b: ``[P, T, d]`` and ``[P, T, o]``.
    """
    a, b = a.double(), b.double()
    squared = torch.bmm(a, a.mT) * torch.bmm(b, b.mT) if a.shape[1] > 1 else None
    return bounded(a, b, squared)


def bounded(a: torch.Tensor, b: torch.Tensor, products: torch.Tensor | None) -> torch.Tensor:
    """Return the sum of each patient's `products` ``[P, T, T]`` plus the bound on its rounding error, see `ghost_norms`.

    Args:
        products: or None for a single position, whose norm is ``|a| |b|``.
    """
    lengths = torch.linalg.vector_norm(a, dim=2) * torch.linalg.vector_norm(b, dim=2)
    largest: torch.Tensor = lengths.sum(1).square()
    squared = largest if products is None else products.flatten(1).sum(1).clamp(min=0)  # NaN stays NaN
    return squared + (a.shape[2] + b.shape[2] + a.shape[1] ** 2) * UNIT * largest


def contracted(patients: Patients, factors: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the sum over patients of ``factor_p b_p^T a_p``, float64 ``[o, d]``.

    Args:
        a, b: ``[images, T, d]`` and ``[images, T, o]``.
    """
    each = patients.spread(factors, b.dim())
    scaled = kept(each, b).double() * each
    return scaled.flatten(0, 1).mT @ kept(each, a).double().flatten(0, 1)


def kept(factors: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return `x` with zeros wherever a factor is 0, because zero times infinity is not zero.

    Whether it is copied depends on the factors; the values of the patients that are kept do not.
    """
    return x if bool((factors > 0).all()) else torch.where(factors > 0, x, torch.zeros_like(x))


def instantiated(parts: Gradients) -> Passed:
    """Return the contribution from per-patient gradients ``[P, *parameter.shape]``."""
    norms = sum(row_squares(part) for part in parts.values())
    assert isinstance(norms, torch.Tensor)  # Safe because every layer has a parameter.

    def weighted(factors: torch.Tensor) -> Gradients:
        return {parameter: combined(factors, part) for parameter, part in parts.items()}

    return Passed(norms, weighted)


def combined(factors: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Return the sum over patients of factor times gradient, float64; `part` is ``[P, *parameter.shape]``."""
    each = factors.reshape(-1, *[1] * (part.dim() - 1))
    total: torch.Tensor = torch.tensordot(factors, kept(each, part).double(), 1)
    return total


def row_squares(part: torch.Tensor) -> torch.Tensor:
    """Return the squared norm of each row, float64 ``[P]``."""
    norms: torch.Tensor = torch.linalg.vector_norm(part.flatten(1), dim=1, dtype=torch.float64)
    return norms.square()


def together(ghost: Passed, parts: Gradients) -> Passed:
    """Return a weight's contribution together with small instantiated parts, such as its bias."""
    if not parts:
        return ghost
    rest = instantiated(parts)
    return Passed(
        ghost.squared_norms + rest.squared_norms, lambda factors: {**ghost.weighted(factors), **rest.weighted(factors)}
    )


def sum_of_squares(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Return the squared Euclidean norm of all tensors together, a float64 scalar."""
    return torch.stack([torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]).square().sum()
