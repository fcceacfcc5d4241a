"""What the layers of a network give for one input: which layer a map is made of, and the features that images are compared by."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from salus.client.explaining.subject import FloatArray

MOST_FEATURES = 4096


@contextmanager
def _watched(network: nn.Module) -> Iterator[list[tuple[str, nn.Module, torch.Tensor, torch.Tensor]]]:
    """Note the name, layer, input and output of every layer without parts, in the order in which they run."""
    seen: list[tuple[str, nn.Module, torch.Tensor, torch.Tensor]] = []

    def watch(name: str) -> object:
        def note(layer: nn.Module, given: tuple[object, ...], found: object) -> None:
            if isinstance(found, torch.Tensor) and given and isinstance(given[0], torch.Tensor):
                seen.append((name, layer, given[0].detach(), found.detach()))

        return note

    hooks = [
        layer.register_forward_hook(watch(name))
        for name, layer in network.named_modules()
        if not list(layer.children())
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def spatial_layer(network: nn.Module, inputs: torch.Tensor, least_side: int) -> str:
    """Return the name of the last layer among those with the coarsest grid that still has so many places along each axis.

    The layer whose output is the network's is left out: it has no channels to weigh. Where even the input is smaller along an
    axis, all the axis' places count as enough. Empty if no layer keeps the places of the image apart.

    Args:
        inputs: ``[1, channels, *spatial]``.
    """
    with _watched(network) as seen, torch.no_grad():
        whole = network(inputs)
    sides, best, found = inputs.shape[2:], None, ""
    needed = [min(least_side, side) for side in sides]
    for name, _, _, output in seen:
        grid = tuple(output.shape[2:])
        if output.dim() != inputs.dim() or output.shape[1] < 2 or _same(output, whole):
            continue
        if max(grid) < 2 or any(side < least for side, least in zip(grid, needed, strict=True)):
            continue
        size = int(np.prod(grid))
        if best is None or size <= best:
            best, found = size, name
    return found


def _same(output: torch.Tensor, whole: object) -> bool:
    return isinstance(whole, torch.Tensor) and output.shape == whole.shape and bool(torch.equal(output, whole))


def features_of(network: nn.Module, inputs: torch.Tensor) -> FloatArray:
    """Return the features of one input, float32: what the last linear layer is given, else the mean of the coarsest layer.

    At most `MOST_FEATURES`; of more, neighbours are averaged.
    """
    with _watched(network) as seen, torch.no_grad():
        network(inputs)
    return _features(seen, inputs)


def _features(seen: Sequence[tuple[str, nn.Module, torch.Tensor, torch.Tensor]], inputs: torch.Tensor) -> FloatArray:
    linear = [given for _, layer, given, _ in seen if isinstance(layer, nn.Linear) and len(given) == 1]
    spatial = [output for _, _, _, output in seen if output.dim() == inputs.dim() > 2 and output.shape[1] > 1]
    if linear:
        found = linear[-1].flatten()
    elif spatial:
        coarsest = min(spatial, key=lambda output: int(np.prod(output.shape[2:])))
        found = coarsest[0].flatten(1).mean(dim=1)
    else:
        found = inputs.flatten()
    if len(found) > MOST_FEATURES:
        found = functional.adaptive_avg_pool1d(found.float()[None, None], MOST_FEATURES)[0, 0]
    return np.asarray(np.nan_to_num(found.float().cpu().numpy()), np.float32)
