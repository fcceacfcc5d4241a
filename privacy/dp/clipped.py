"""The sum of per-patient gradients, each clipped once: the interface of an engine, and a slow reference loop.

The engines (`clipping`) fulfil ``Clipper``; at a site, `checks` compares them with the loop before the first step of a job.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from salus.common.batch import Batch
from salus.privacy.dp.calls import Loss
from salus.privacy.dp.ghost import sum_of_squares
from salus.privacy.dp.patients import Patients

SMALLEST_NORM = 1e-60  # below any norm of single-precision numbers; their squares do not underflow in double precision
LARGEST_NORM = 1e18  # a larger gradient counts as infinite, and its patient contributes nothing


@dataclass(frozen=True)
class ClippedSum:
    """The result of one batch.

    Args:
        gradients: float64, one tensor per trained parameter, in the order of the model: the sum over patients of their clipped
            gradients.
        norms_l2: Euclidean norm of each patient's gradient before clipping, float64 ``[patients]``; 0 for free rows.
    """

    gradients: list[torch.Tensor]
    norms_l2: torch.Tensor


class Clipper(Protocol):
    """Sums the clipped gradients of the patients of a batch."""

    def of_copy(self, model: nn.Module) -> "Clipper":
        """Return the same engine for a copy of its network."""

    def clipped_sum(self, batch: Batch, patients: Patients, clip_norm_l2: float) -> ClippedSum:
        """Return the sum.

        Guarantees: each patient contributes a vector of norm at most ``clip_norm_l2`` (up to float32 rounding), whatever the
        images; a patient whose gradient is not finite, or larger than 1e18, contributes nothing. A patient's contribution does
        not depend on the other rows if the network's rows do not (`rows.independent_rows`). The sum is in double precision.
        """


def clip_factors(norms_l2: torch.Tensor, clip_norm_l2: float) -> torch.Tensor:
    """Return the clipping factor of each patient's gradient: min(1, C / norm), or 0 if the norm is NaN or above 1e18."""
    factors = (clip_norm_l2 / norms_l2.double().clamp(min=SMALLEST_NORM)).clamp(max=1.0)
    return torch.where(norms_l2 <= LARGEST_NORM, factors, torch.zeros_like(factors))  # false for NaN, too


def with_parameters(model: nn.Module) -> list[nn.Module]:
    """Return the layers that have their own trained parameters."""
    return [layer for layer in model.modules() if any(p.requires_grad for p in layer.parameters(recurse=False))]


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained; the others are frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


class Loop:
    """The reference for both engines: a plain loop over patients with ordinary gradients."""

    def __init__(self, model: nn.Module, loss: Loss, batch: Batch, patients: Patients) -> None:
        parameters = trained(model)
        self._nothing = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
        self._gradients: dict[int, list[torch.Tensor]] = {}
        self.norms_l2 = torch.zeros(patients.count, dtype=torch.float64)
        for patient, images in enumerate(patients.of_row):
            if images:
                mine = slice(patient * patients.places, patient * patients.places + images)
                found = torch.autograd.grad(loss(model, batch.rows(mine)).mean(), parameters)
                self._gradients[patient] = list(found)
                self.norms_l2[patient] = sum_of_squares(list(found)).sqrt()

    def clipped_sum(self, clip_norm_l2: float) -> ClippedSum:
        """Return the sum of the patients' clipped gradients."""
        total = [part.clone() for part in self._nothing]
        factors = clip_factors(self.norms_l2, clip_norm_l2).tolist()
        for patient, gradients in self._gradients.items():
            if factors[patient] > 0:
                for place, gradient in enumerate(gradients):
                    total[place] += factors[patient] * gradient.double()
        return ClippedSum(total, self.norms_l2)


def looped_sum(model: nn.Module, loss: Loss, batch: Batch, patients: Patients, clip_norm_l2: float) -> ClippedSum:
    """Return what `Clipper.clipped_sum` does, by the loop."""
    return Loop(model, loss, batch, patients).clipped_sum(clip_norm_l2)
