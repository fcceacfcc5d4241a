"""The fast engine: ghost norm or instantiated gradient for each layer, with one backward pass (see `layers`)."""

import functools
from collections import Counter

import torch
from torch import nn

from salus.common.batch import Batch
from salus.privacy.dp.calls import Loss, output_gradients, recorded
from salus.privacy.dp.clipped import ClippedSum, clip_factors, trained, with_parameters
from salus.privacy.dp.ghost import Gradients, Passed, instantiated
from salus.privacy.dp.layers import Moments, group_norm_with_moments, instances, passed
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
            RuntimeError: the network cannot be clipped in this way; the caller then uses the fallback.
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
            wanted = trained(self._model)
            return ClippedSum(
                [found[p] if p in found else torch.zeros_like(p, dtype=torch.float64) for p in wanted], norms
            )

    def _collect(self, batch: Batch, patients: Patients) -> dict[nn.Module, Passed]:
        """Return each layer's contribution, from one forward and one backward pass of the network."""
        pass_ = _Pass(patients, len(batch), batch.device)
        norms = [layer for layer in self._layers if isinstance(layer, nn.GroupNorm)]
        for norm in norms:
            norm.forward = functools.partial(pass_.normalise, norm)  # type: ignore[method-assign]
        handles = [layer.register_forward_hook(pass_.watch) for layer in self._layers]
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
        return pass_.contributions()


class _Pass:
    """What the hooks of one pass collect.

    A layer that runs once contributes by the cheaper route for its sizes. The gradients of one that runs several times, such as a
    discriminator that sees real and made images, are instantiated and added before their norm is taken.
    """

    def __init__(self, patients: Patients, items: int, device: torch.device) -> None:
        self._patients, self._items = patients, items
        self._anchor = torch.zeros((), device=device, requires_grad=True)
        self._runs: Counter[nn.Module] = Counter()
        self._moments: dict[nn.Module, Moments] = {}
        self._once: dict[nn.Module, Passed] = {}
        self._more: dict[nn.Module, Gradients] = {}

    def normalise(self, layer: nn.GroupNorm, given: torch.Tensor) -> torch.Tensor:
        """Run a GroupNorm and keep its moments."""
        output, self._moments[layer] = group_norm_with_moments(layer, given)
        return output

    def watch(self, layer: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Note a layer's input, and take the gradient of its output when it comes."""
        seen, moments = given[0].detach(), self._moments.pop(layer, None)
        if len(seen) % self._items:
            raise RuntimeError("a layer's rows do not belong to single items")
        patients = self._patients.repeated(len(seen) // self._items)  # such as the frames of a video
        self._runs[layer] += 1
        if not output.requires_grad:
            output = output + self._anchor  # the first layer: its weights do not require gradients, but its output must

        def take(gradient: torch.Tensor) -> None:
            with torch.no_grad():
                if self._runs[layer] == 1:
                    self._once[layer] = passed(layer, seen, gradient, patients, moments)
                    return
                for parameter, part in instances(layer, seen, gradient, patients, moments).items():
                    known = self._more.setdefault(layer, {})
                    known[parameter] = known[parameter] + part if parameter in known else part

        output.register_hook(take)  # type: ignore[no-untyped-call]
        return output

    def contributions(self) -> dict[nn.Module, Passed]:
        """Return what every layer adds; one that the loss does not reach adds nothing."""
        return self._once | {layer: instantiated(parts) for layer, parts in self._more.items()}
