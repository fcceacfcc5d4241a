"""Low-rank adapters on linear and convolution layers (Hu et al. 2021, "LoRA", arXiv 2106.09685).

An adapted layer computes ``W x + scale * up(down(x))``. Both factors are plain layers without bias: linear ones, or a convolution
like the layer's own to `rank` channels, and one of size 1. So the clipping engine knows them, and W needs no gradient.
"""

import copy
from collections.abc import Iterator
from typing import Any

from salus.common.errors import JobError
from salus.common.job_start import Lora
from salus.common.optional_torch import nn, torch

DOWN, UP = "lora_down", "lora_up"


class Adapted(nn.Module):
    """What an adapted layer has beside what its kind of layer has."""

    lora_down: nn.Module
    lora_up: nn.Module
    lora_scale: float

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the layer's own output and the adapter's."""
        own: torch.Tensor = super().forward(input)  # of the kind of layer
        added: torch.Tensor = self.lora_up(self.lora_down(input))
        return own + self.lora_scale * added


class AdaptedLinear(Adapted, nn.Linear):
    """A linear layer with an adapter."""


class AdaptedConv1d(Adapted, nn.Conv1d):
    """A convolution over one dimension with an adapter."""


class AdaptedConv2d(Adapted, nn.Conv2d):
    """A convolution over two dimensions with an adapter."""


class AdaptedConv3d(Adapted, nn.Conv3d):
    """A convolution over three dimensions with an adapter."""


ADAPTED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: AdaptedLinear,
    nn.Conv1d: AdaptedConv1d,
    nn.Conv2d: AdaptedConv2d,
    nn.Conv3d: AdaptedConv3d,
}


def adapt(model: nn.Module, lora: Lora, trained: tuple[str, ...]) -> None:
    """Give layers of a model their adapters, drawn from torch's global state; the model's outputs are the same before training.

    Args:
        trained: beginnings of the names of parameters that are trained in full; such layers get no adapter.

    Grouped convolutions and layers of other kinds, such as norms, get none either: they stay as the model begins with them.

    Raises:
        JobError: an entry of ``on`` is the beginning of no layer that could have an adapter.
    """
    layers = {
        f"{name}.": layer
        for name, layer in model.named_modules()
        if type(layer) in ADAPTED and getattr(layer, "groups", 1) == 1 and not f"{name}.".startswith(trained or ("\0",))
    }
    for prefix in lora.on or ("",):
        if not any(name.startswith(prefix) for name in layers):
            raise JobError(
                f"No linear or convolution layer of the model begins with {prefix!r}, which task.lora lists under on.",
                remedy=f"Such layers are {', '.join(name[:-1] for name in list(layers)[:8])}."
                if layers
                else "Leave out task.lora: the model has no layer that could have an adapter.",
            )
    for name, layer in layers.items():
        if name.startswith(lora.on or ("",)):
            _adapt(layer, lora)


def _adapt(layer: nn.Module, lora: Lora) -> None:
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]  # linear layers and convolutions have one
    given: dict[str, Any] = {"bias": False, "device": weight.device, "dtype": weight.dtype}
    if isinstance(layer, nn.Linear):
        down: nn.Module = nn.Linear(layer.in_features, lora.rank, **given)
        up: nn.Module = nn.Linear(lora.rank, layer.out_features, **given)
    else:
        kind: Any = type(layer)
        source: Any = layer
        down = kind(
            source.in_channels, lora.rank, source.kernel_size, source.stride, source.padding, source.dilation,
            padding_mode=source.padding_mode, **given,
        )  # fmt: skip
        up = kind(lora.rank, source.out_channels, 1, **given)
    with torch.no_grad():
        nn.init.zeros_(up.weight)  # type: ignore[arg-type]  # so the first outputs are those of the start
    layer.__class__ = ADAPTED[type(layer)]
    layer.lora_down, layer.lora_up, layer.lora_scale = down, up, lora.scale  # type: ignore[assignment]


def is_adapter(name: str) -> bool:
    """Return whether a parameter belongs to an adapter, by its name."""
    return name.endswith((f"{DOWN}.weight", f"{UP}.weight"))


def adapted_layers(model: nn.Module) -> Iterator[Adapted]:
    """Yield the adapted layers of a model."""
    for layer in model.modules():
        if isinstance(layer, Adapted):
            yield layer


def merged(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose adapters are added to the weights: the plain network, with the names that it has without.

    The sum over the rank is taken in a fixed order in double precision, so every machine gets the same bits.
    """
    found = copy.deepcopy(model)
    for layer in list(adapted_layers(found)):
        weight: torch.Tensor = layer.weight  # type: ignore[assignment]
        down = layer.lora_down.weight.detach().double()  # type: ignore[operator]
        up = layer.lora_up.weight.detach().double().flatten(1)  # type: ignore[operator]
        total = weight.detach().double()
        for place in range(len(down)):
            outer = up[:, place].reshape(-1, *[1] * (down.dim() - 1)) * down[place][None]
            total = total + layer.lora_scale * outer
        with torch.no_grad():
            weight.copy_(total.to(weight.dtype))
        del layer.lora_down, layer.lora_up
        plain: Any = next(plain for plain, kind in ADAPTED.items() if type(layer) is kind)
        layer.__class__ = plain
    return found
