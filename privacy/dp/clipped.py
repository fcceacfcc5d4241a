"""The sum of per-patient gradients, each clipped once: the interface of an engine, and a slow reference loop.

The engines (`clipping`) fulfil ``Clipper``; at a site, `checks` compares them with the loop before the first step of a job.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from salus.privacy.dp.ghost import sum_of_squares
from salus.privacy.dp.patients import Patients

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
SMALLEST_NORM = 1e-60  # below any norm of single-precision numbers; their squares do not underflow in double precision
LARGEST_NORM = 1e18  # a larger gradient counts as infinite, and its patient contributes nothing


@dataclass(frozen=True)
class ClippedSum:
    """The result of one batch.

    Args:
        gradients: float64, one tensor per parameter of the model, in its order: the sum over patients of their clipped
            gradients.
        norms_l2: Euclidean norm of each patient's gradient before clipping, float64 ``[patients]``; 0 for free rows.
    """

    gradients: list[torch.Tensor]
    norms_l2: torch.Tensor


class Clipper(Protocol):
    """Sums the clipped gradients of the patients of a batch."""

    def of_copy(self, model: nn.Module) -> "Clipper":
        """Return the same engine for a copy of its network."""

    def clipped_sum(
        self, inputs: torch.Tensor, targets: torch.Tensor, patients: Patients, clip_norm_l2: float
    ) -> ClippedSum:
        """Return the sum.

        Guarantees: each patient contributes a vector of norm at most ``clip_norm_l2`` (up to float32 rounding), whatever the
        images; a patient whose gradient is not finite, or larger than 1e18, contributes nothing. A patient's contribution does
        not depend on the other rows if the network's rows do not (`checks.independent_rows`). The sum is in double precision.
        """


def clip_factors(norms_l2: torch.Tensor, clip_norm_l2: float) -> torch.Tensor:
    """Return the clipping factor of each patient's gradient: min(1, C / norm), or 0 if the norm is NaN or above 1e18."""
    factors = (clip_norm_l2 / norms_l2.double().clamp(min=SMALLEST_NORM)).clamp(max=1.0)
    return torch.where(norms_l2 <= LARGEST_NORM, factors, torch.zeros_like(factors))  # false for NaN, too


def with_parameters(model: nn.Module) -> list[nn.Module]:
    """Return the layers that have their own parameters."""
    return [layer for layer in model.modules() if any(True for _ in layer.parameters(recurse=False))]


def single(outputs: torch.Tensor) -> torch.Tensor:
    """Return outputs of a half-precision pass in single precision; others as they are."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def output_gradient(loss: Loss, outputs: torch.Tensor, targets: torch.Tensor, patients: Patients) -> torch.Tensor:
    """Return the gradient of the sum over patients of the mean loss of their images, with respect to the outputs.

    The loss is evaluated for one image at a time, so that it cannot couple patients. An image for which it fails has a gradient
    of NaN, and its patient contributes nothing. Free places have a gradient of zero.
    """
    outputs = single(outputs.detach())
    gradient = torch.zeros_like(outputs)
    for place, patient in patients.numbers():
        item = slice(place, place + 1)
        try:
            leaf = outputs[item].clone().requires_grad_()
            with torch.enable_grad():
                (found,) = torch.autograd.grad(loss(leaf, targets[item]), leaf)
            gradient[item] = found / patients.of_row[patient]
        except Exception:
            # Any error must affect only this patient: a failure of the whole step would reveal that the patient is there.
            gradient[item] = float("nan")
    return gradient


def looped_sum(
    model: nn.Module, loss: Loss, inputs: torch.Tensor, targets: torch.Tensor, patients: Patients, clip_norm_l2: float
) -> ClippedSum:
    """Return the same by a plain loop over patients with ordinary gradients: the reference for both engines."""
    parameters = list(model.parameters())
    total = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    norms = torch.zeros(patients.count, dtype=torch.float64)
    for patient, images in enumerate(patients.of_row):
        if not images:
            continue
        mine = slice(patient * patients.places, patient * patients.places + images)
        gradients = torch.autograd.grad(loss(single(model(inputs[mine])), targets[mine]), parameters)
        norms[patient] = sum_of_squares(list(gradients)).sqrt()
        factor = clip_factors(norms[patient : patient + 1], clip_norm_l2)[0]
        if float(factor) > 0:
            for place, gradient in enumerate(gradients):
                total[place] += factor * gradient.double()
    return ClippedSum(total, norms)
