"""Per-patient gradients of single layers from what passed through them: input activations and output gradients.

For a layer that is linear in its weight, the gradient of patient p is ``B_p A_p^T`` with the unfolded activations ``A_p``
``[T, d]`` and output gradients ``B_p`` ``[T, o]`` of all its T positions. Its norm needs either that product (cost
``T d o``) or only the two Gram matrices, ``sum((A_p A_p^T) * (B_p B_p^T))`` (cost ``T^2 (d + o)``, "ghost norm", Goodfellow
2015, arXiv 1510.01799; Li et al. 2021, arXiv 2110.05679). The cheaper one is taken per layer (Bu et al. 2022, arXiv
2205.10683), and the clipped sum is one further contraction of what is stored (Bu et al. 2023, arXiv 2210.00038).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from salus.privacy.dp.patients import Patients

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
# A Gram matrix costs memory traffic as well as arithmetic, so it must win by some margin; measured on two CPU cores.
GHOST_MARGIN = 0.7
# A squared ghost norm below this share of its largest possible value is not believed: single precision would leave an error
# of more than about 1e-4 of the norm. Ordinary networks stay above one over the number of positions.
LEAST_SHARE = 2e-3
Moments = tuple[torch.Tensor, torch.Tensor]
Gradients = dict[torch.Tensor, torch.Tensor]  # by parameter


@dataclass
class Passed:
    """What one layer contributes: the squared norms of its per-patient gradients, and how to sum them with factors.

    Args:
        squared_norms: ``[patients]``.
        weighted: from one factor per patient, ``[patients]``, to the gradient of each of the layer's parameters.
    """

    squared_norms: torch.Tensor
    weighted: Callable[[torch.Tensor], Gradients]


def supported(layer: nn.Module) -> bool:
    """Return whether `passed` knows this layer with its settings."""
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
    """Return what a supported layer contributes.

    Args:
        inputs: the layer's input, first dimension the images of the batch.
        gradient: of the summed loss with respect to the layer's output.
        moments: of a GroupNorm, where `group_norm_with_moments` has given them.
    """
    if isinstance(layer, nn.Linear):
        return _linear(layer, inputs, gradient, patients)
    if isinstance(layer, nn.Embedding):
        return _embedding(layer, inputs, gradient, patients)
    if isinstance(layer, CONVOLUTIONS):
        return _convolution(layer, inputs, gradient, patients)
    if isinstance(layer, TRANSPOSED):
        return _image_by_image(layer, inputs, gradient, patients)
    if isinstance(layer, nn.LayerNorm):
        return _layer_norm(layer, inputs, gradient, patients)
    return _group_norm(layer, inputs, gradient, patients, moments)


def _by_image(patients: Patients, factors: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Return `tensor` with each image's part multiplied by its patient's factor."""
    each = factors.to(tensor)[patients.of_image].reshape(-1, *[1] * (tensor.dim() - 1))
    return tensor * each


def _ghost(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor | None:
    """Return ``|| b_p^T a_p ||^2`` for each patient from Gram matrices, or None where rounding could hide a gradient.

    The norm is a sum of products that may cancel, and what is added later is another computation. A model can be made so that
    the sum cancels to nothing while the gradient is huge. So the norm counts only where it is a fair part of the largest
    that it could be, ``sum_t |a_t| |b_t|``; otherwise the caller instantiates the gradient.

    Args:
        a, b: ``[P, T, d]`` and ``[P, T, o]``.
    """
    largest: torch.Tensor = (
        (torch.linalg.vector_norm(a, dim=2) * torch.linalg.vector_norm(b, dim=2)).double().sum(1).square()
    )
    if a.shape[1] == 1:
        return largest
    squared: torch.Tensor = (torch.bmm(a, a.mT).double() * torch.bmm(b, b.mT).double()).sum((1, 2))
    return squared if _trusted(squared, largest) else None


def _trusted(squared: torch.Tensor, largest: torch.Tensor) -> bool:
    return bool((squared >= LEAST_SHARE * largest).all())  # False for NaN, too


def _sum_squares(samples: torch.Tensor) -> torch.Tensor:
    norms: torch.Tensor = torch.linalg.vector_norm(samples.flatten(1), dim=1, dtype=torch.float64)
    return norms.square()


def _ghost_pays(positions: int, d: int, o: int) -> bool:
    return positions * (d + o) < GHOST_MARGIN * d * o


def _instantiated(parts: Gradients) -> Passed:
    """Return the contribution from per-patient gradients ``[P, *parameter.shape]``."""
    norms = torch.stack([_sum_squares(part) for part in parts.values()]).sum(0)

    def weighted(factors: torch.Tensor) -> Gradients:
        return {parameter: torch.tensordot(factors.to(part), part, 1) for parameter, part in parts.items()}

    return Passed(norms, weighted)


def _linear(layer: nn.Linear, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients) -> Passed:
    a = inputs.reshape(len(inputs), -1, inputs.shape[-1])
    b = gradient.reshape(len(gradient), -1, gradient.shape[-1])
    bias = layer.bias
    mine, theirs = patients.joined(a), patients.joined(b)
    squared = _ghost(mine, theirs) if _ghost_pays(mine.shape[1], a.shape[2], b.shape[2]) else None
    biases: Gradients = {} if bias is None else {bias: theirs.sum(1)}
    if squared is None:
        return _instantiated({layer.weight: torch.bmm(theirs.mT, mine), **biases})

    def weight(factors: torch.Tensor) -> Gradients:
        return {layer.weight: _by_image(patients, factors, b).flatten(0, 1).mT @ a.flatten(0, 1)}

    return _with(Passed(squared, weight), biases)


def _with(ghost: Passed, parts: Gradients) -> Passed:
    """Return a weight's contribution together with small instantiated parts, such as its bias."""
    if not parts:
        return ghost
    rest = _instantiated(parts)
    return Passed(
        ghost.squared_norms + rest.squared_norms, lambda factors: {**ghost.weighted(factors), **rest.weighted(factors)}
    )


def _embedding(layer: nn.Embedding, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients) -> Passed:
    tokens = inputs.reshape(len(inputs), -1)
    b = gradient.reshape(*tokens.shape, -1)
    if layer.padding_idx is not None:
        b = b * (tokens != layer.padding_idx)[..., None]
    # Two positions meet in the gradient exactly where they hold the same token; -1 marks the padding of `joined`.
    token, vector = patients.joined(tokens[..., None] + 1).squeeze(-1), patients.joined(b)
    same = (token[:, :, None] == token[:, None, :]).to(b.dtype)
    squared = (same * torch.bmm(vector, vector.mT)).double().sum((1, 2))
    largest = torch.linalg.vector_norm(vector, dim=2).double().sum(1).square()
    if not _trusted(squared, largest):
        samples = vector.new_zeros(patients.count, layer.num_embeddings + 1, vector.shape[2])
        index = token.long()[..., None].expand(-1, -1, vector.shape[2])
        return _instantiated({layer.weight: samples.scatter_add_(1, index, vector)[:, 1:]})

    def weighted(factors: torch.Tensor) -> Gradients:
        total = torch.zeros_like(layer.weight)
        total.index_add_(0, tokens.flatten(), _by_image(patients, factors, b).flatten(0, 1))
        return {layer.weight: total}

    return Passed(squared, weighted)


def _unfold(x: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    """Return the patches that a convolution sees: ``[B, channels * kernel, positions]``, for 1 to 3 dimensions."""
    assert isinstance(layer, CONVOLUTIONS + TRANSPOSED)
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    padding = [int(side) for side in layer.padding]
    if math.prod(kernel) == 1 and not any(padding) and math.prod(stride) == 1:
        return x.flatten(2)
    if len(kernel) == 2:
        return F.unfold(x, kernel, dilation, padding, stride)  # type: ignore[arg-type]
    pads = [side for amount in reversed(padding) for side in (amount, amount)]
    x = F.pad(x, pads)
    rank = len(kernel)
    for dimension in range(rank):
        x = x.unfold(2 + dimension, (kernel[dimension] - 1) * dilation[dimension] + 1, stride[dimension])
    for dimension, step in enumerate(dilation):
        x = x[(slice(None),) * (2 + rank + dimension) + (slice(None, None, step),)]
    # Now [B, C, *positions, *kernel].
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    return x.permute(order).reshape(len(x), x.shape[1] * math.prod(kernel), -1)


def _convolution(layer: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients) -> Passed:
    assert isinstance(layer, CONVOLUTIONS)
    weight, bias, groups = layer.weight, layer.bias, layer.groups
    positions, out = gradient[0, 0].numel(), gradient.shape[1]
    d = weight[0].numel()
    if groups != 1 or not _ghost_pays(positions * patients.most_images, d, out):
        return _image_by_image(layer, inputs, gradient, patients)
    mine, theirs = patients.joined(_unfold(inputs, layer).mT), patients.joined(gradient.flatten(2).mT)
    squared = _ghost(mine, theirs)
    if squared is None:
        return _image_by_image(layer, inputs, gradient, patients)
    biases: Gradients = {} if bias is None else {bias: theirs.sum(1)}
    del mine, theirs

    def weight_of(factors: torch.Tensor) -> Gradients:
        return {weight: _weight_gradient(layer, inputs, _by_image(patients, factors, gradient))[weight]}

    return _with(Passed(squared, weight_of), biases)


def _image_by_image(layer: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients) -> Passed:
    """Instantiate each patient's gradient with the library's own convolution, which needs no unfolded copy of the batch and,
    measured on two CPU cores, takes no longer image by image than for the whole batch."""
    assert isinstance(layer, CONVOLUTIONS + TRANSPOSED)
    samples: list[Gradients] = [{} for _ in range(patients.count)]
    for image, patient in enumerate(patients.of_image.tolist()):
        one = _weight_gradient(layer, inputs[image : image + 1], gradient[image : image + 1])
        for parameter, value in one.items():
            known = samples[patient].get(parameter)
            samples[patient][parameter] = value if known is None else known + value
    norms = torch.stack([sum_of_squares(list(sample.values())) for sample in samples])

    def weighted(factors: torch.Tensor) -> Gradients:
        total = {parameter: torch.zeros_like(parameter) for parameter in samples[0]}
        for factor, sample in zip(factors.tolist(), samples, strict=True):
            for parameter, value in sample.items():
                total[parameter].add_(value, alpha=factor)
        return total

    return Passed(norms, weighted)


def sum_of_squares(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Return the squared Euclidean norm of all tensors together, a scalar."""
    return torch.stack([torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]).square().sum()


def _weight_gradient(layer: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> Gradients:
    assert isinstance(layer, CONVOLUTIONS + TRANSPOSED)
    transposed = isinstance(layer, TRANSPOSED)
    has_bias = layer.bias is not None
    _, weight, bias = torch.ops.aten.convolution_backward(
        gradient, inputs, layer.weight, None if layer.bias is None else list(layer.bias.shape), list(layer.stride),
        list(layer.padding), list(layer.dilation), transposed,
        list(layer.output_padding) if transposed else [0] * len(layer.kernel_size), layer.groups,
        [False, True, has_bias],
    )  # fmt: skip
    result: Gradients = {layer.weight: weight}
    if layer.bias is not None:
        result[layer.bias] = bias
    return result


def _layer_norm(layer: nn.LayerNorm, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients) -> Passed:
    """Normalisations scale and shift what they normalised: both gradients are sums over positions."""
    shape = (len(inputs), -1, *layer.normalized_shape)
    normal = F.layer_norm(inputs, layer.normalized_shape, None, None, layer.eps)
    parts: Gradients = {layer.weight: patients.summed((gradient * normal).reshape(shape).sum(1))}
    if layer.bias is not None:
        parts[layer.bias] = patients.summed(gradient.reshape(shape).sum(1))
    return _instantiated(parts)


def _group_norm(
    layer: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients, moments: Moments | None
) -> Passed:
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
    return _instantiated(parts)


def group_norm_with_moments(layer: nn.GroupNorm, inputs: torch.Tensor) -> tuple[torch.Tensor, Moments]:
    """Return the layer's output and the (mean, 1 / deviation) it computed on the way, ``[images, groups]`` each."""
    images, channels = inputs.shape[:2]
    positions = inputs[0, 0].numel()
    output, mean, inverse = torch.native_group_norm(
        inputs.contiguous(), layer.weight, layer.bias, images, channels, positions, layer.num_groups, layer.eps
    )
    return output, (mean.detach(), inverse.detach())
