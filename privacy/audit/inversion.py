"""Gradient inversion: images that would give the gradient that was seen (Geiping et al. 2020, arXiv 2003.14053).

Images are changed until their gradient points in the direction of the given one (equation 4 of the paper: cosine similarity
and total variation; Adam on the sign of the derivative, section 6). Behind a linear layer on the raw input no search is needed:
a row of its gradient over the entry of its bias is a mean of images, and of one image the image itself (proposition 3.1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from salus.common.batch import Batch
from salus.privacy.dp.calls import Loss

IMAGE = "image"
RATE = 0.1  # of Adam, as in the paper
SMOOTHNESS = 1e-5  # weight of the total variation: small beside the distances near a solution, about 1e-3
LITTLE = 0.02  # of noise on the usual image, so that the items of a batch differ
ZERO = 1e-12


@dataclass(frozen=True)
class Search:
    """How images are looked for.

    Args:
        iterations: of Adam.
        low, high: of a value of an image.
        usual: the mean of public images, ``[channels, *grid]``, where the search begins, too.
    """

    iterations: int
    low: float
    high: float
    usual: torch.Tensor


def gradient(model: nn.Module, loss: Loss, batch: Batch, *, differentiable: bool = False) -> torch.Tensor:
    """Return the gradient of the mean loss, in the order of the trained parameters, ``[parameters]``."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(
        loss(model, batch).mean(), parameters, create_graph=differentiable, allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten() for part in found])


def invert(
    model: nn.Module,
    loss: Loss,
    known: Batch,
    seen: torch.Tensor,
    search: Search,
    done: Callable[[int], None] = lambda iteration: None,
) -> torch.Tensor:
    """Return images whose gradient resembles the one that was seen, ``[items, channels, *grid]``.

    Args:
        known: what the attacker knows, in the fields of the task, such as the labels; the values of its field ``image`` are
            not used, only its shape.
        seen: minus an update of one step, in the order of the trained parameters; its length does not matter.
    """
    unit = seen / seen.norm().clamp_min(ZERO)
    best, least = None, math.inf
    for start in _starts(model, known, seen, search):
        found, distance = _searched(model, loss, known, unit, search, start, done)
        if best is None or distance < least:
            best, least = found, distance
    assert best is not None  # Safe because there is always a start.
    return best


def _distance(model: nn.Module, loss: Loss, known: Batch, images: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    mine = gradient(model, loss, Batch({**known.fields, IMAGE: images}), differentiable=True)
    found: torch.Tensor = 1 - (mine @ unit) / mine.norm().clamp_min(ZERO)
    return found


def _searched(
    model: nn.Module,
    loss: Loss,
    known: Batch,
    unit: torch.Tensor,
    search: Search,
    start: torch.Tensor,
    done: Callable[[int], None],
) -> tuple[torch.Tensor, float]:
    images = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([images], lr=RATE * (search.high - search.low) / 2)
    ends = [search.iterations * part // 8 for part in (3, 5, 7)]
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, ends, gamma=0.1)  # as in the paper
    best, least = start, math.inf
    for iteration in range(search.iterations):
        distance = _distance(model, loss, known, images, unit)
        value = float(distance.detach())
        if not math.isfinite(value):
            break  # such as noise so large that nothing fits
        if value < least:
            best, least = images.detach().clone(), value
        optimizer.zero_grad()
        (images.grad,) = torch.autograd.grad(distance + SMOOTHNESS * _variation(images), images)
        images.grad.sign_()
        optimizer.step()
        steps.step()
        with torch.no_grad():
            images.clamp_(search.low, search.high)
        done(iteration + 1)
    return best, least


def _starts(model: nn.Module, known: Batch, seen: torch.Tensor, search: Search) -> list[torch.Tensor]:
    """Return where the search begins: at the usual image, and at what a linear layer on the raw input shows."""
    shape = known[IMAGE].shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    starts = [search.usual.expand(shape) + LITTLE * (search.high - search.low) * noise]
    read = read_linear(model, seen, math.prod(shape[1:]))
    if len(read):
        strongest = read[torch.arange(shape[0]) % len(read)].reshape(shape).nan_to_num(0.0)
        starts.append(strongest.clamp(search.low, search.high))
    return starts


def read_linear(model: nn.Module, seen: torch.Tensor, features: int) -> torch.Tensor:
    """Return what a linear layer on the raw input shows, the rows with the largest biases first, ``[rows, features]``.

    Of one image every row is the image itself; of several images a row is a weighted mean.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    places, at = {}, 0
    for parameter in parameters:
        places[id(parameter)] = slice(at, at + parameter.numel())
        at += parameter.numel()
    for module in model.modules():
        if not isinstance(module, nn.Linear) or module.in_features != features or module.bias is None:
            continue
        if id(module.weight) not in places or id(module.bias) not in places:
            continue
        rows = seen[places[id(module.weight)]].reshape(-1, features)
        biases = seen[places[id(module.bias)]]
        order = torch.argsort(biases.abs(), descending=True)
        rows, biases = rows[order], biases[order]
        return rows[biases != 0] / biases[biases != 0][:, None]
    return torch.zeros(0, features)


def _variation(images: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference of neighbours, over all spatial axes."""
    return torch.stack([images.diff(dim=axis).abs().mean() for axis in range(2, images.dim())]).sum()


def signal_to_noise_db(found: torch.Tensor, truth: torch.Tensor, reach: float) -> float:
    """Return the peak signal-to-noise ratio of an image in dB, at most 100.

    Args:
        reach: the largest difference that two values of an image can have.
    """
    square = float(((found.double() - truth.double()) ** 2).mean())
    if not math.isfinite(square):
        return 0.0
    return min(100.0, 10 * math.log10(reach**2 / max(square, 1e-30)))
