"""The choice between the fast engine and the general fallback, which supports any layer."""

import functools

import torch
from torch import nn

from salus.privacy.dp.clipped import ClippedSum, Clipper, Loss, clip_factors, single, with_parameters
from salus.privacy.dp.fast import FastClipper
from salus.privacy.dp.ghost import combined, row_squares
from salus.privacy.dp.layers import supported
from salus.privacy.dp.patients import Patients

VMAP_NUMBERS = 2**26  # per-image gradients held at once: 256 MB


def make_clipper(model: nn.Module, loss: Loss) -> Clipper:
    """Return the fast engine if it supports every layer with parameters, otherwise the fallback."""
    own = with_parameters(model)
    shared = len(list(model.parameters())) != sum(len(list(layer.parameters(recurse=False))) for layer in own)
    if not shared and all(supported(layer) for layer in own):
        return FastClipper(model, loss)
    return VmapClipper(model, loss)


class VmapClipper:
    """Per-image gradients of the whole model by `torch.func`, in chunks of whole patients; correct for any model without
    shared statistics, but slow."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self._model, self._loss = model, loss
        self._names = [name for name, _ in model.named_parameters()]

        def one(parameters: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            output = torch.func.functional_call(model, parameters, (x[None],))
            return loss(single(output), y[None])

        self._each = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0), randomness="different")

    def of_copy(self, model: nn.Module) -> "VmapClipper":
        """See `Clipper`."""
        return VmapClipper(model, self._loss)

    def clipped_sum(
        self, inputs: torch.Tensor, targets: torch.Tensor, patients: Patients, clip_norm_l2: float
    ) -> ClippedSum:
        """See `Clipper`."""
        parameters = {name: p.detach() for name, p in self._model.named_parameters()}
        total = [torch.zeros_like(p, dtype=torch.float64) for p in parameters.values()]
        norms = []
        rows = self._rows_at_once(patients)
        for first in range(0, patients.count, rows):
            part = Patients(patients.images[first : first + rows], patients.places)
            images = slice(first * patients.places, (first + rows) * patients.places)
            samples = self._samples(parameters, inputs[images], targets[images], part)
            squares = functools.reduce(torch.add, [row_squares(sample) for sample in samples])
            norms.append(torch.where(part.present, squares.sqrt(), torch.zeros_like(squares)))
            factors = clip_factors(norms[-1], clip_norm_l2)
            factors = torch.where(part.present, factors, torch.zeros_like(factors))
            for place, sample in enumerate(samples):
                total[place] += combined(factors, sample)
        return ClippedSum(total, torch.cat(norms))

    def _rows_at_once(self, patients: Patients) -> int:
        """Return a divisor of the number of rows, so that every chunk has the same size; it depends on public sizes only."""
        size = sum(p.numel() for p in self._model.parameters())
        most = max(1, VMAP_NUMBERS // max(1, size * patients.places))
        return max(rows for rows in range(1, patients.count + 1) if patients.count % rows == 0 and rows <= most)

    def _samples(
        self, parameters: dict[str, torch.Tensor], inputs: torch.Tensor, targets: torch.Tensor, patients: Patients
    ) -> list[torch.Tensor]:
        """Return each patient's gradient for each parameter, ``[patients, *parameter.shape]``."""
        each = self._each(parameters, inputs, targets)
        weights = torch.zeros(len(inputs), dtype=torch.float64)
        for place, patient in patients.numbers():
            weights[place] = 1.0 / patients.of_row[patient]
        samples = []
        for name in self._names:
            found = each[name]
            share = weights.to(found).reshape(-1, *[1] * (found.dim() - 1))
            samples.append(patients.summed(torch.where(share > 0, found * share, torch.zeros_like(found))))
        return samples
