"""Models whose gradient reveals single samples: a wide layer on the raw input that does not share its weights.

The gradient of such a layer's row is a weighted sum of the inputs that activate it. With crafted parameters, each row is
activated by a narrow range of brightness. Then most rows hold one image each, and a sum over sites does not mix them
(Fowl et al. 2022, "Robbing the Fed", arXiv 2110.13057). Protecting the updates does not help; only noise does.

The check looks at the structure, not at the parameters. It does not find every model that could reveal samples, because any
model without noise might. It finds those that reveal many of them exactly.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

MOST_OUTPUTS = 8  # most outputs of one layer on the raw input; the classes of a usual classifier are fewer
FEWEST_PLACES = (
    16  # a convolution mixes the gradients of its positions; with fewer than this it is nearly a linear layer
)
ELEMENTWISE = (nn.LayerNorm, nn.GroupNorm, nn.PReLU)
Run = Callable[[nn.Module], object]


@dataclass(frozen=True)
class _Call:
    """A wide layer that was run on something that depends on no weight matrix."""

    layer: str
    inputs: tuple[torch.Tensor, ...]


def imprint_layers(model: nn.Module, run: Run, items: int) -> list[str]:
    """Return the names of a model's imprint layers, with their widths, such as ``1 (64 outputs)``.

    Args:
        model: any network; on the device ``meta`` this takes almost no time or memory.
        run: gives the model what a step of training gives it, on the model's device; values do not matter.
        items: how many items that is.

    An imprint layer has a weight matrix with more than `MOST_OUTPUTS` outputs, applies it at fewer than `FEWEST_PLACES`
    positions of a sample, and its input does not depend on another weight matrix. Frozen parameters do not count.
    """
    return [call.layer for call in _calls(model, run, items)]


def imprint_layers_of_samples(model: nn.Module, run: Run, other: Run, items: int) -> list[str]:
    """Return those of `imprint_layers` whose input depends on the samples; a first state, a place or noise does not.

    Args:
        model: on a device with values.
        other: as `run`, with other samples and the same noise.
    """
    calls, others = _calls(model, run, items), _calls(model, other, items)
    if [call.layer for call in calls] != [call.layer for call in others]:
        return [call.layer for call in (*calls, *others)]
    return [
        call.layer
        for call, again in zip(calls, others, strict=True)
        if not call.inputs  # nothing to compare, so nothing excuses it
        or not all(torch.equal(value, same) for value, same in zip(call.inputs, again.inputs, strict=True))
    ]


def _calls(model: nn.Module, run: Run, items: int) -> list[_Call]:
    found: list[_Call] = []
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    handles = []
    try:
        for name, module in model.named_modules():
            widths = _widths(module)
            for parameter in module.parameters(recurse=False):
                # A frozen matrix hides nothing: everybody knows it, and its input can be computed back.
                parameter.requires_grad_(bool(widths) and parameter.dim() >= 2 and before[parameter])
            if widths:
                handles.append(
                    module.register_forward_hook(_observer(name, max(widths), items, found), with_kwargs=True)
                )
        with torch.enable_grad():
            run(model)
    finally:
        for handle in handles:
            handle.remove()
        for parameter, wanted in before.items():
            parameter.requires_grad_(wanted)
    return found


def _widths(module: nn.Module) -> list[int]:
    """Return the numbers of outputs of a module's own weight matrices; empty without any."""
    if isinstance(module, ELEMENTWISE):
        return []
    return [int(p.shape[0]) for p in module.parameters(recurse=False) if p.dim() >= 2 and p.requires_grad]


def _observer(name: str, width: int, batch: int, found: list[_Call]) -> Callable[..., None]:
    def observe(module: nn.Module, arguments: Any, named: Any, output: Any) -> None:
        del module
        seen = _tensors([arguments, named])
        # A weight matrix before this one would make its input require a gradient.
        if any(value.requires_grad for value in seen):
            return
        result = output if isinstance(output, torch.Tensor) else output[0]
        if width > MOST_OUTPUTS and result.numel() < FEWEST_PLACES * width * batch:
            # A copy, because the model may change what it was given.
            found.append(_Call(f"{name} ({width} outputs)", tuple(value.detach().clone() for value in seen)))

    return observe


def _tensors(given: Any) -> list[torch.Tensor]:
    """Return the tensors in nested arguments, in order."""
    if isinstance(given, torch.Tensor):
        return [given]
    if isinstance(given, Mapping):
        given = list(given.values())
    return [value for part in given for value in _tensors(part)] if isinstance(given, list | tuple) else []
