"""Tests that refuse networks and losses in which one item of a batch affects another item's contribution."""

import torch
from torch import nn

from salus.common.errors import ProtectionError
from salus.privacy.dp.clipped import Loss

TOLERANCE = 1e-5
ITEMS = 64  # size of the largest batch tried: a loss may couple the items of large batches only
FEWEST = 8
SIZES = (1, 2, 3, 5, 8, 13, 21, 33, ITEMS)
LARGEST = 2**22  # numbers in the outputs of that batch
SCALES = (0.1, 1.0, 3.0, 30.0)  # from outputs of an untrained network to those of a confident one


def refuse_coupled_outputs(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return the outputs for a batch; raise ProtectionError if those for one image depend on the others."""
    with torch.no_grad():
        together: torch.Tensor = model(inputs)
        alone = torch.cat([model(inputs[i : i + 1]) for i in range(len(inputs))])
        more: torch.Tensor = model(torch.cat([inputs, inputs * -3 if inputs.is_floating_point() else inputs.flip(0)]))
    same = together.shape == alone.shape and _close(together, alone) and _close(more[: len(inputs)], alone)
    if not same:
        raise ProtectionError(
            "The network's output for one image depends on the others in its batch.",
            remedy="Remove BatchNorm, dropout in evaluation mode, and other statistics shared between images.",
        )
    return together


def refuse_coupled_items(loss: Loss, outputs: torch.Tensor, targets: torch.Tensor) -> None:
    """Raise ProtectionError unless the loss of a batch is the mean of its items' losses, and so is its gradient.

    Tried with batches of 1 to 64 items, with outputs of several sizes, and after each single item was changed.

    Args:
        outputs: of the network for a few images; the loss is tried with others of the same shape and type.
        targets: of those images.
    """
    count = max(FEWEST, min(ITEMS, LARGEST // max(1, outputs[0].numel())))
    wanted = targets.repeat(-(-count // len(targets)), *[1] * (targets.dim() - 1))[:count]
    for scale in SCALES:
        # Outputs of other magnitudes than the initial network's, so that a loss cannot pass by accident.
        tried = torch.randn(count, *outputs.shape[1:], dtype=outputs.dtype) * scale + outputs.mean()
        values, slopes = zip(
            *(_loss_and_slope(loss, tried[i : i + 1], wanted[i : i + 1]) for i in range(count)), strict=True
        )
        items, gradients = torch.stack(values), torch.cat(slopes)
        for size in (size for size in SIZES if size <= count):
            value, slope = _loss_and_slope(loss, tried[:size], wanted[:size])
            if not _close(value, items[:size].mean()) or not _close(slope * size, gradients[:size]):
                raise _coupled()
        for changed in range(FEWEST):  # the others' gradients must stay when one item changes
            other = tried[:FEWEST].clone()
            other[changed] = other[changed] * -5 + scale
            _, slope = _loss_and_slope(loss, other, wanted[:FEWEST])
            rest = torch.arange(FEWEST) != changed
            if not _close(slope[rest] * FEWEST, gradients[:FEWEST][rest]):
                raise _coupled()


def _loss_and_slope(loss: Loss, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = outputs.clone().requires_grad_()
    value = loss(leaf, targets)
    (slope,) = torch.autograd.grad(value, leaf)
    return value.detach(), slope


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def _coupled() -> ProtectionError:
    return ProtectionError(
        "The loss of a batch is not the mean of the losses of its items, so a patient's contribution cannot be bounded.",
        remedy="Use a loss without batch-wide sums: Dice with batch=False, cross-entropy without class weights.",
    )
