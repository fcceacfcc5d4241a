"""Per-patient gradients of convolutions, of 1 to 3 dimensions, transposed ones too."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from salus.privacy.dp.ghost import (
    Gradients,
    Passed,
    contracted,
    ghost_norms,
    ghost_pays,
    instantiated,
    sum_of_squares,
    together,
)
from salus.privacy.dp.patients import Patients

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def convolution(layer: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients) -> Passed:
    """Return a convolution's contribution by the cheaper route for its sizes; arguments as in `layers.passed`."""
    assert isinstance(layer, CONVOLUTIONS)
    weight, bias = layer.weight, layer.bias
    positions, out = gradient[0, 0].numel(), gradient.shape[1]
    if layer.groups != 1 or not ghost_pays(positions * patients.places, weight[0].numel(), out):
        return instantiating(layer, inputs, gradient, patients)
    theirs = gradient.flatten(2).mT
    squared = ghost_norms(patients.joined(_unfold(inputs, layer).mT), patients.joined(theirs))
    biases: Gradients = {} if bias is None else {bias: patients.summed(theirs.sum(1))}

    def weight_of(factors: torch.Tensor) -> Gradients:
        # Unfolded again, because keeping the copies of all layers would need much memory.
        return {weight: contracted(patients, factors, _unfold(inputs, layer).mT, theirs).reshape(weight.shape)}

    return together(Passed(squared, weight_of), biases)


def instantiating(layer: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients) -> Passed:
    """Return a convolution's contribution from each patient's instantiated gradient; arguments as in `layers.passed`."""
    if _at_once(layer, inputs):
        return instantiated(instances_of_convolution(layer, inputs, gradient, patients))
    samples = _samples(layer, inputs, gradient, patients)
    norms = torch.zeros(patients.count, dtype=torch.float64, device=inputs.device)
    for patient, sample in samples.items():
        norms[patient] = sum_of_squares(list(sample.values()))

    def weighted(factors: torch.Tensor) -> Gradients:
        total: Gradients = {p: torch.zeros_like(p, dtype=torch.float64) for p in layer.parameters(recurse=False)}
        for patient, factor in enumerate(factors.tolist()):
            if factor > 0:
                for parameter, value in samples[patient].items():
                    total[parameter].add_(value, alpha=factor)
        return total

    return Passed(norms, weighted)


def instances_of_convolution(
    layer: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients
) -> Gradients:
    """Return each patient's gradient, ``[patients, *parameter.shape]``; that of free rows has no meaning."""
    if _at_once(layer, inputs):
        return {p: patients.summed(each) for p, each in _weight_gradients(layer, inputs, gradient).items()}
    samples = _samples(layer, inputs, gradient, patients)
    nothing = {p: torch.zeros_like(p) for p in layer.parameters(recurse=False)}
    rows = [samples.get(patient, nothing) for patient in range(patients.count)]
    return {parameter: torch.stack([row[parameter] for row in rows]) for parameter in nothing}


def _at_once(layer: nn.Module, inputs: torch.Tensor) -> bool:
    """Return whether all images go through one grouped convolution, or each through one of its own; sizes and device are public.

    Measured on two CPU cores: in 3-D one call takes half as long, in 1-D and 2-D it is no faster. On a GPU, many small calls
    would leave the device idle.
    """
    assert isinstance(layer, CONVOLUTIONS + TRANSPOSED)
    return len(layer.kernel_size) == 3 or inputs.device.type != "cpu"


def _samples(
    layer: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor, patients: Patients
) -> dict[int, Gradients]:
    """Return the gradient of each patient that is present, computed image by image."""
    samples: dict[int, Gradients] = {}
    for image, patient in patients.numbers():
        mine = slice(image, image + 1)
        one = _weight_gradients(layer, inputs[mine], gradient[mine])
        known = samples.setdefault(patient, {})
        for parameter, value in one.items():
            known[parameter] = known[parameter] + value[0] if parameter in known else value[0]
    return samples


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


def _weight_gradients(layer: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> Gradients:
    """Return each image's gradient, ``[images, *parameter.shape]``, by one convolution in which every image is a group."""
    assert isinstance(layer, CONVOLUTIONS + TRANSPOSED)
    images, transposed, weight = len(inputs), isinstance(layer, TRANSPOSED), layer.weight
    # Of the weight only the shape is used, so its values are not repeated for every image.
    repeated = weight.detach().new_zeros(()).expand(images * weight.shape[0], *weight.shape[1:])
    _, found, bias = torch.ops.aten.convolution_backward(
        gradient.reshape(1, -1, *gradient.shape[2:]), inputs.reshape(1, -1, *inputs.shape[2:]), repeated,
        None if layer.bias is None else [images * len(layer.bias)], list(layer.stride), list(layer.padding),
        list(layer.dilation), transposed, list(layer.output_padding) if transposed else [0] * len(layer.kernel_size),
        images * layer.groups, [False, True, layer.bias is not None],
    )  # fmt: skip
    result: Gradients = {weight: found.reshape(images, *weight.shape)}
    if layer.bias is not None:
        result[layer.bias] = bias.reshape(images, -1)
    return result
