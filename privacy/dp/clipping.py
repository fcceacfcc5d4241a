"""The sum of per-patient gradients, each clipped once: a fast engine for the usual layers and a general fallback.

Both fulfil ``Clipper`` and are held to a plain loop over patients by `checks`, at a site before its first step of a job.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from salus.privacy.dp.layers import (
    Gradients,
    Moments,
    Passed,
    group_norm_with_moments,
    passed,
    sum_of_squares,
    supported,
)
from salus.privacy.dp.patients import Patients

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
SMALLEST_NORM = 1e-60  # below any norm of single-precision numbers; their squares do not underflow in double precision
VMAP_NUMBERS = 2**26  # per-image gradients held at once by the fallback: 256 MB


@dataclass(frozen=True)
class ClippedSum:
    """The result of one batch.

    Args:
        gradients: one tensor per parameter of the model, in its order: the sum over patients of their clipped gradients.
        norms_l2: Euclidean norm of each patient's gradient before clipping, ``[patients]``.
    """

    gradients: list[torch.Tensor]
    norms_l2: torch.Tensor


class Clipper(Protocol):
    """Sums the clipped gradients of the patients of a batch."""

    def clipped_sum(
        self, inputs: torch.Tensor, targets: torch.Tensor, patients: Patients, clip_norm_l2: float
    ) -> ClippedSum:
        """Return the sum.

        Guarantees: each patient adds a vector of norm at most ``clip_norm_l2`` (up to float32 rounding), whatever its
        images; a patient whose gradient is not finite adds nothing.
        """


def clip_factors(norms_l2: torch.Tensor, clip_norm_l2: float) -> torch.Tensor:
    """Return what each patient's gradient is multiplied by: min(1, C / norm), and 0 where the norm is not finite."""
    factors = (clip_norm_l2 / norms_l2.double().clamp(min=SMALLEST_NORM)).clamp(max=1.0)
    return torch.where(torch.isfinite(norms_l2), factors, torch.zeros_like(factors))


def make_clipper(model: nn.Module, loss: Loss) -> Clipper:
    """Return the fast engine if every layer with parameters is known to it, else the fallback."""
    own = [layer for layer in model.modules() if any(True for _ in layer.parameters(recurse=False))]
    shared = len(list(model.parameters())) != sum(len(list(layer.parameters(recurse=False))) for layer in own)
    if not shared and all(supported(layer) for layer in own):
        return FastClipper(model, loss)
    return VmapClipper(model, loss)


class FastClipper:
    """Per-layer choice of ghost norm or instantiated gradient, with one backward pass (see `layers`)."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self._model, self._loss = model, loss
        self._layers = [layer for layer in model.modules() if any(True for _ in layer.parameters(recurse=False))]

    def clipped_sum(
        self, inputs: torch.Tensor, targets: torch.Tensor, patients: Patients, clip_norm_l2: float
    ) -> ClippedSum:
        """See `Clipper`.

        Raises:
            RuntimeError: a layer was used twice in one pass; the caller then takes the fallback.
        """
        collected = self._collect(inputs, targets, patients)
        with torch.no_grad():
            return self._sum(collected, inputs, targets, patients, clip_norm_l2)

    def _sum(
        self,
        collected: dict[nn.Module, Passed],
        inputs: torch.Tensor,
        targets: torch.Tensor,
        patients: Patients,
        clip_norm_l2: float,
    ) -> ClippedSum:
        parameters = list(self._model.parameters())
        norms = torch.stack([part.squared_norms for part in collected.values()]).sum(0).clamp(min=0).sqrt()
        factors = clip_factors(norms, clip_norm_l2)
        if not bool(torch.isfinite(norms).all()):
            return self._without(factors > 0, inputs, targets, patients, clip_norm_l2, norms)
        found: Gradients = {}
        for layer in list(collected):
            found |= collected.pop(layer).weighted(factors)
        return ClippedSum([found.get(p, torch.zeros_like(p)) for p in parameters], norms)

    def _without(
        self,
        kept: torch.Tensor,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        patients: Patients,
        clip_norm_l2: float,
        norms: torch.Tensor,
    ) -> ClippedSum:
        """Zero times infinity is not zero: patients with broken gradients are left out, and the rest is computed again."""
        if not bool(kept.any()):
            return ClippedSum([torch.zeros_like(p) for p in self._model.parameters()], norms)
        images = kept[patients.of_image]
        renumbered = (torch.cumsum(kept.long(), 0) - 1)[patients.of_image[images]]
        with torch.enable_grad():
            few = Patients(renumbered, int(kept.sum()))
            rest = self.clipped_sum(inputs[images], targets[images], few, clip_norm_l2)
        return ClippedSum(rest.gradients, norms)

    def _collect(self, inputs: torch.Tensor, targets: torch.Tensor, patients: Patients) -> dict[nn.Module, Passed]:
        collected: dict[nn.Module, Passed] = {}
        moments: dict[nn.Module, Moments] = {}
        anchor = torch.zeros((), device=inputs.device, requires_grad=True)

        def watch(layer: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            seen = given[0].detach()
            if not output.requires_grad:
                output = output + anchor  # the first layer: its weights do not ask for gradients, its output must

            def take(gradient: torch.Tensor) -> None:
                if layer in collected:
                    raise RuntimeError("a layer was used twice")
                with torch.no_grad():
                    collected[layer] = passed(layer, seen, gradient, patients, moments.pop(layer, None))

            output.register_hook(take)  # type: ignore[no-untyped-call]
            return output

        def normalise(layer: nn.GroupNorm, given: torch.Tensor) -> torch.Tensor:
            output, moments[layer] = group_norm_with_moments(layer, given)
            return output

        norms = [layer for layer in self._layers if isinstance(layer, nn.GroupNorm)]
        for norm in norms:
            norm.forward = functools.partial(normalise, norm)  # type: ignore[method-assign]
        handles = [layer.register_forward_hook(watch) for layer in self._layers]
        flags = [parameter.requires_grad for parameter in self._model.parameters()]
        try:
            for parameter in self._model.parameters():
                parameter.requires_grad_(False)  # the ordinary weight gradients are never computed
            _backward(self._model, self._loss, inputs, targets, patients)
        finally:
            for handle in handles:
                handle.remove()
            for norm in norms:
                del norm.forward  # the class's own method again
            for parameter, flag in zip(self._model.parameters(), flags, strict=True):
                parameter.requires_grad_(flag)
        return collected


def _full(outputs: torch.Tensor) -> torch.Tensor:
    """Return outputs of a half-precision pass in single precision; others as they are."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def _backward(model: nn.Module, loss: Loss, inputs: torch.Tensor, targets: torch.Tensor, patients: Patients) -> None:
    """Run one pass in which image i's loss counts one over the images of its patient."""
    outputs = model(inputs)
    leaf = _full(outputs.detach()).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf, targets) * len(inputs), leaf)
    weights = patients.image_weights.to(gradient).reshape(-1, *[1] * (gradient.dim() - 1))
    outputs.backward((gradient * weights).to(outputs.dtype))


class VmapClipper:
    """Per-image gradients of the whole model by `torch.func`, in chunks of whole patients; right for any model without
    shared statistics, and slow."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self._model = model
        self._names = [name for name, _ in model.named_parameters()]

        def one(parameters: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            output = torch.func.functional_call(model, parameters, (x[None],))
            return loss(_full(output), y[None])

        self._each = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0), randomness="different")

    def clipped_sum(
        self, inputs: torch.Tensor, targets: torch.Tensor, patients: Patients, clip_norm_l2: float
    ) -> ClippedSum:
        """See `Clipper`."""
        parameters = {name: p.detach() for name, p in self._model.named_parameters()}
        total = [torch.zeros_like(p) for p in parameters.values()]
        size = sum(p.numel() for p in parameters.values())
        chunk = max(1, VMAP_NUMBERS // max(1, size * max(1, patients.most_images)))
        norms = []
        for first in range(0, patients.count, chunk):
            images = (patients.of_image >= first) & (patients.of_image < first + chunk)
            part = Patients(patients.of_image[images] - first, min(chunk, patients.count - first))
            each = self._each(parameters, inputs[images], targets[images])
            weights = part.image_weights.to(next(iter(parameters.values())))
            samples = [
                part.summed(each[name] * weights.reshape(-1, *[1] * (each[name].dim() - 1))) for name in self._names
            ]
            norms.append(
                torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1, dtype=torch.float64) for g in samples]).norm(
                    dim=0
                )
            )
            factors = clip_factors(norms[-1], clip_norm_l2)
            for place, g in enumerate(samples):
                total[place] += torch.tensordot(factors.to(g), torch.nan_to_num(g, 0.0, 0.0, 0.0), 1)
        return ClippedSum(total, torch.cat(norms) if norms else torch.zeros(0))


def looped_sum(
    model: nn.Module, loss: Loss, inputs: torch.Tensor, targets: torch.Tensor, patients: Patients, clip_norm_l2: float
) -> ClippedSum:
    """Return the same by a plain loop over patients with ordinary gradients: the oracle of both engines."""
    parameters = list(model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    norms = []
    for patient in range(patients.count):
        images = patients.of_image == patient
        gradients = torch.autograd.grad(loss(_full(model(inputs[images])), targets[images]), parameters)
        norm = sum_of_squares(list(gradients)).sqrt()
        factor = clip_factors(norm[None], clip_norm_l2)[0]
        norms.append(norm)
        if float(factor) > 0:
            for place, gradient in enumerate(gradients):
                total[place] += factor.to(gradient) * gradient
    return ClippedSum(total, torch.stack(norms) if norms else torch.zeros(0))
