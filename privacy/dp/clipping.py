"""The choice between the fast engine and the general fallback, which supports any layer."""

import functools

import torch
from torch import nn

from salus.common.batch import Batch
from salus.privacy.dp.calls import Loss
from salus.privacy.dp.clipped import ClippedSum, Clipper, clip_factors, trained, with_parameters
from salus.privacy.dp.fast import FastClipper
from salus.privacy.dp.ghost import combined, row_squares
from salus.privacy.dp.layers import supported
from salus.privacy.dp.patients import Patients

VMAP_NUMBERS = 2**26  # per-image gradients held at once: 256 MB


def make_clipper(model: nn.Module, loss: Loss) -> Clipper:
    """Return the fast engine if it supports every layer with parameters, otherwise the fallback."""
    own = with_parameters(model)
    mine = [list(layer.parameters(recurse=False)) for layer in own]
    whole = all(parameter.requires_grad for parameters in mine for parameter in parameters)  # no layer is half frozen
    shared = len(trained(model)) != sum(map(len, mine))
    if whole and not shared and all(supported(layer) for layer in own):
        return FastClipper(model, loss)
    return VmapClipper(model, loss)


class OneItem(nn.Module):
    """The loss of one item as a module, so that `torch.func` can replace the network's parameters."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, fields: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss, a scalar; fields are ``[*shape]``."""
        return self._loss(self.model, Batch({name: field[None] for name, field in fields.items()})).sum()


class VmapClipper:
    """Per-image gradients of the whole model by `torch.func`, in chunks of whole patients; correct for any model without
    shared statistics, but slow. The loss sees one image at a time, so it cannot couple patients."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self._model, self._loss = model, loss
        item = OneItem(model, loss)

        def one(parameters: dict[str, torch.Tensor], fields: dict[str, torch.Tensor]) -> torch.Tensor:
            given = {f"model.{name}": parameter for name, parameter in parameters.items()}
            found: torch.Tensor = torch.func.functional_call(item, given, (fields,))
            return found

        self._each = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0), randomness="different")

    def of_copy(self, model: nn.Module) -> "VmapClipper":
        """See `Clipper`."""
        return VmapClipper(model, self._loss)

    def clipped_sum(self, batch: Batch, patients: Patients, clip_norm_l2: float) -> ClippedSum:
        """See `Clipper`."""
        parameters = {name: p.detach() for name, p in self._model.named_parameters() if p.requires_grad}
        total = [torch.zeros_like(p, dtype=torch.float64) for p in parameters.values()]
        norms = []
        rows = self._rows_at_once(patients)
        for first in range(0, patients.count, rows):
            part = Patients(patients.images[first : first + rows], patients.places)
            images = slice(first * patients.places, (first + rows) * patients.places)
            samples = self._samples(parameters, batch.rows(images), part)
            squares = functools.reduce(torch.add, [row_squares(sample) for sample in samples])
            norms.append(torch.where(part.present, squares.sqrt(), torch.zeros_like(squares)))
            factors = clip_factors(norms[-1], clip_norm_l2)
            factors = torch.where(part.present, factors, torch.zeros_like(factors))
            for place, sample in enumerate(samples):
                total[place] += combined(factors, sample)
        return ClippedSum(total, torch.cat(norms))

    def _rows_at_once(self, patients: Patients) -> int:
        """Return a divisor of the number of rows, so that every chunk has the same size; it depends on public sizes only."""
        size = sum(p.numel() for p in trained(self._model))
        most = max(1, VMAP_NUMBERS // max(1, size * patients.places))
        return max(rows for rows in range(1, patients.count + 1) if patients.count % rows == 0 and rows <= most)

    def _samples(self, parameters: dict[str, torch.Tensor], batch: Batch, patients: Patients) -> list[torch.Tensor]:
        """Return each patient's gradient for each parameter, ``[patients, *parameter.shape]``."""
        each = self._each(parameters, dict(batch.fields))
        weights = torch.zeros(len(batch), dtype=torch.float64)
        for place, patient in patients.numbers():
            weights[place] = 1.0 / patients.of_row[patient]
        samples = []
        for found in each.values():
            share = weights.to(found).reshape(-1, *[1] * (found.dim() - 1))
            samples.append(patients.summed(torch.where(share > 0, found * share, torch.zeros_like(found))))
        return samples
