"""Per-patient gradients of single layers from their input activations and output gradients.

For each layer, the cheaper of two routes is used (Bu et al. 2022, arXiv 2205.10683); see `ghost`. The choice depends only on
the layer's sizes, which are public; a patient's contribution depends on that patient alone.
"""

import torch
import torch.nn.functional as F
from torch import nn

from salus.privacy.dp.convolutions import (
    CONVOLUTIONS,
    TRANSPOSED,
    convolution,
    instances_of_convolution,
    instantiating,
)
from salus.privacy.dp.ghost import (
    Gradients,
    Passed,
    bounded,
    contracted,
    ghost_norms,
    ghost_pays,
    instantiated,
    kept,
    together,
)
from salus.privacy.dp.patients import Patients

INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
Moments = tuple[torch.Tensor, torch.Tensor]


def supported(layer: nn.Module) -> bool:
    """Return whether `passed` supports this layer with its settings."""
    if isinstance(layer, CONVOLUTIONS):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if isinstance(layer, TRANSPOSED):
        return layer.groups == 1 and layer.padding_mode == "zeros"
    if isinstance(layer, INSTANCE_NORMS):
        return not layer.track_running_stats
    if isinstance(layer, nn.Embedding):
        return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse
    return isinstance(layer, nn.Linear | nn.GroupNorm | nn.LayerNorm)


def passed(
    layer: nn.Module,
    inputs: torch.Tensor,
    gradient: torch.Tensor,
    patients: Patients,
    moments: Moments | None = None,
) -> Passed:
    """Return the contribution of a supported layer.

    Args:
        inputs: the layer's input, first dimension the images of the batch.
        gradient: gradient of the summed loss with respect to the layer's output.
        moments: moments of a GroupNorm, from `group_norm_with_moments`.
    """
    if isinstance(layer, nn.Linear):
        return _linear(layer, inputs, gradient, patients)
    if isinstance(layer, nn.Embedding):
        return _embedding(layer, inputs, gradient, patients)
    if isinstance(layer, CONVOLUTIONS):
        return convolution(layer, inputs, gradient, patients)
    if isinstance(layer, TRANSPOSED):
        return instantiating(layer, inputs, gradient, patients)
    return instantiated(_norm(layer, inputs, gradient, patients, moments))


def instances(
    layer: nn.Module,
    inputs: torch.Tensor,
    gradient: torch.Tensor,
    patients: Patients,
    moments: Moments | None = None,
) -> Gradients:
    """Return each patient's gradient of a supported layer's parameters, ``[patients, *parameter.shape]``.

    Arguments as in `passed`. It needs more memory, but the gradients of several runs of one layer can be added.
    """
    if isinstance(layer, nn.Linear):
        a, b, biases = _flat(layer, inputs, gradient, patients)
        return {layer.weight: torch.bmm(patients.joined(b).mT, patients.joined(a)), **biases}
    if isinstance(layer, nn.Embedding):
        tokens, b = _tokens(layer, inputs, gradient)
        total = gradient.new_zeros(patients.count, *layer.weight.shape)
        row = torch.arange(patients.count, device=tokens.device).repeat_interleave(patients.places * tokens.shape[1])
        return {layer.weight: total.index_put((row, tokens.flatten()), b.flatten(0, 1), accumulate=True)}
    if isinstance(layer, CONVOLUTIONS + TRANSPOSED):
        return instances_of_convolution(layer, inputs, gradient, patients)
    return _norm(layer, inputs, gradient, patients, moments)


def _flat(
    layer: nn.Linear, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients
) -> tuple[torch.Tensor, torch.Tensor, Gradients]:
    """Return activations and output gradients as ``[images, T, d]``, and the gradient of the bias."""
    a = inputs.reshape(len(inputs), -1, inputs.shape[-1])
    b = gradient.reshape(len(gradient), -1, gradient.shape[-1])
    return a, b, {} if layer.bias is None else {layer.bias: patients.summed(b.sum(1))}


def _tokens(layer: nn.Embedding, inputs: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens ``[images, T]`` and their output gradients ``[images, T, d]``."""
    tokens = inputs.reshape(len(inputs), -1)
    b = gradient.reshape(*tokens.shape, -1)
    if layer.padding_idx is not None:
        b = b.masked_fill((tokens == layer.padding_idx)[..., None], 0.0)
    return tokens, b


def _norm(
    layer: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients, moments: Moments | None
) -> Gradients:
    if isinstance(layer, nn.LayerNorm):
        return _layer_norm(layer, inputs, gradient, patients)
    return _group_norm(layer, inputs, gradient, patients, moments)


def _linear(layer: nn.Linear, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients) -> Passed:
    weight, (a, b, biases) = layer.weight, _flat(layer, inputs, gradient, patients)
    mine, theirs = patients.joined(a), patients.joined(b)
    if not ghost_pays(mine.shape[1], a.shape[2], b.shape[2]):
        return instantiated({weight: torch.bmm(theirs.mT, mine), **biases})
    ghost = Passed(ghost_norms(mine, theirs), lambda factors: {weight: contracted(patients, factors, a, b)})
    return together(ghost, biases)


def _embedding(layer: nn.Embedding, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients) -> Passed:
    weight = layer.weight
    tokens, b = _tokens(layer, inputs, gradient)
    token, vector = patients.joined(tokens[..., None]), patients.joined(b).double()
    # Two positions share a row of the gradient exactly if they have the same token.
    same = (token == token.mT).double()
    squared = bounded(torch.ones_like(token, dtype=torch.float64), vector, same * torch.bmm(vector, vector.mT))

    def weighted(factors: torch.Tensor) -> Gradients:
        each = patients.spread(factors, b.dim())
        total = torch.zeros_like(weight, dtype=torch.float64)
        total.index_add_(0, tokens.flatten(), (kept(each, b).double() * each).flatten(0, 1))
        return {weight: total}

    return Passed(squared, weighted)


def _layer_norm(layer: nn.LayerNorm, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients) -> Gradients:
    """Normalisations scale and shift the normalised values: both gradients are sums over positions."""
    shape = (len(inputs), -1, *layer.normalized_shape)
    normal = F.layer_norm(inputs, layer.normalized_shape, None, None, layer.eps)
    parts: Gradients = {layer.weight: patients.summed((gradient * normal).reshape(shape).sum(1))}
    if layer.bias is not None:
        parts[layer.bias] = patients.summed(gradient.reshape(shape).sum(1))
    return parts


def _group_norm(
    layer: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients, moments: Moments | None
) -> Gradients:
    """Uses ``sum(g * (x - mean) / deviation) = (sum(g * x) - mean * sum(g)) / deviation``, so nothing normalised is stored."""
    assert isinstance(layer, (nn.GroupNorm, *INSTANCE_NORMS))
    images, channels = inputs.shape[:2]
    groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else channels
    if moments is None:
        variance, mean = torch.var_mean(inputs.reshape(images, groups, -1), dim=2, correction=0)
        moments = mean, (variance + layer.eps).rsqrt()
    mean, inverse = (moment.reshape(images, groups).repeat_interleave(channels // groups, dim=1) for moment in moments)
    shift = gradient.flatten(2).sum(2)
    scale = ((gradient * inputs).flatten(2).sum(2) - mean * shift) * inverse
    parts: Gradients = {layer.weight: patients.summed(scale)}
    if layer.bias is not None:
        parts[layer.bias] = patients.summed(shift)
    return parts


def group_norm_with_moments(layer: nn.GroupNorm, inputs: torch.Tensor) -> tuple[torch.Tensor, Moments]:
    """Return the layer's output and the (mean, 1 / deviation) it computed on the way, ``[images, groups]`` each."""
    images, channels = inputs.shape[:2]
    positions = inputs[0, 0].numel()
    output, mean, inverse = torch.native_group_norm(
        inputs.contiguous(), layer.weight, layer.bias, images, channels, positions, layer.num_groups, layer.eps
    )
    return output, (mean.detach(), inverse.detach())
