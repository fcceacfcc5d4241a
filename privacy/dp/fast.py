"""The fast engine: ghost norm or instantiated gradient for each layer, with one backward pass (see `layers`)."""

import functools

import torch
from torch import nn

from salus.common.batch import Batch
from salus.privacy.dp.calls import Loss, output_gradients, recorded
from salus.privacy.dp.clipped import ClippedSum, clip_factors, with_parameters
from salus.privacy.dp.ghost import Gradients, Passed
from salus.privacy.dp.layers import Moments, group_norm_with_moments, passed
from salus.privacy.dp.patients import Patients


class FastClipper:
    """Clips in networks for which `layers` supports every layer with parameters."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self._model, self._loss = model, loss
        self._layers = with_parameters(model)

    def of_copy(self, model: nn.Module) -> "FastClipper":
        """See `Clipper`."""
        return FastClipper(model, self._loss)

    def clipped_sum(self, batch: Batch, patients: Patients, clip_norm_l2: float) -> ClippedSum:
        """See `Clipper`.

        Raises:
            RuntimeError: a layer was used twice in one pass; the caller then uses the fallback.
        """
        collected = self._collect(batch, patients)
        with torch.no_grad():
            # Added one after the other: a library's reduction may use a different order for another row.
            squares = functools.reduce(torch.add, [part.squared_norms for part in collected.values()])
            norms = torch.where(patients.present, squares.sqrt(), torch.zeros_like(squares))
            factors = torch.where(patients.present, clip_factors(norms, clip_norm_l2), torch.zeros_like(norms))
            found: Gradients = {}
            for layer in list(collected):
                found |= collected.pop(layer).weighted(factors)
            nothing = {p: torch.zeros_like(p, dtype=torch.float64) for p in self._model.parameters() if p not in found}
            return ClippedSum([found[p] if p in found else nothing[p] for p in self._model.parameters()], norms)

    def _collect(self, batch: Batch, patients: Patients) -> dict[nn.Module, Passed]:
        collected: dict[nn.Module, Passed] = {}
        moments: dict[nn.Module, Moments] = {}
        anchor = torch.zeros((), device=batch.device, requires_grad=True)

        def watch(layer: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            seen = given[0].detach()
            if not output.requires_grad:
                output = output + anchor  # the first layer: its weights do not require gradients, but its output must

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
            with torch.enable_grad():
                calls = recorded(self._loss, self._model, batch)
            slopes = output_gradients(self._loss, calls, batch, patients)
            pairs = [(t, g.to(t.dtype)) for t, g in zip(calls.tensors, slopes, strict=True) if t.requires_grad]
            torch.autograd.backward([output for output, _ in pairs], [slope for _, slope in pairs])
        finally:
            for handle in handles:
                handle.remove()
            for norm in norms:
                del norm.forward  # the class's own method again
            for parameter, flag in zip(self._model.parameters(), flags, strict=True):
                parameter.requires_grad_(flag)
        return collected
