"""Tests that refuse networks and losses in which one item of a batch affects another item's contribution."""

import torch
from torch import nn

from salus.common.batch import Batch, joined
from salus.common.errors import ProtectionError
from salus.privacy.dp.calls import Calls, Loss, recorded

TOLERANCE = 1e-5
ITEMS = 64  # size of the largest batch tried: a loss may couple the items of large batches only
FEWEST = 10
SIZES = (1, 2, 3, 5, 10, 13, 21, 33, ITEMS)
LARGEST = 2**20  # numbers in the outputs of that batch, because masks of volumes are large
FEWEST_OF_LARGE = 4  # items whose outputs alone are that large: each try of a large patch takes a tenth of a second
SCALES = (0.1, 1.0, 3.0, 30.0)  # from outputs of an untrained network to those of a confident one


def refuse_coupled_outputs(model: nn.Module, loss: Loss, batch: Batch) -> Calls:
    """Return the network's calls for a batch; raise ProtectionError if outputs or losses of one image depend on the others."""
    with torch.no_grad():
        together = recorded(loss, model, batch)
        alone = [recorded(loss, model, batch.rows(slice(i, i + 1))) for i in range(len(batch))]
        more = recorded(loss, model, joined([batch, _altered(batch)]))
        same = len(together.tensors) == len(more.tensors) and all(
            _alike(found.of_item(item), alone[item].of_item(0))
            for found in (together, more)
            for item in range(len(batch))
        )
    if not same:
        raise ProtectionError(
            "The network's output for one image depends on the others in its batch.",
            remedy="Remove BatchNorm, dropout in evaluation mode, and other statistics shared between images.",
        )
    own = torch.cat([_shaped(calls.losses, 1) for calls in alone])
    for found in (together, more):
        if not _close(_shaped(found.losses, found.items)[: len(batch)], own):
            raise _coupled()
    return together


def refuse_coupled_losses(model: nn.Module, loss: Loss, batch: Batch) -> None:
    """Raise ProtectionError unless each item's loss is the same alone, among others, and when the others change.

    For losses that cannot be taken apart, which the engine evaluates for one item at a time together with the network.
    """
    with torch.no_grad():
        alone = torch.cat([_shaped(loss(model, batch.rows(slice(i, i + 1))), 1) for i in range(len(batch))])
        for tried in (batch, joined([batch, _altered(batch)])):
            if not _close(_shaped(loss(model, tried), len(tried))[: len(batch)], alone):
                raise _coupled()


def refuse_coupled_items(loss: Loss, calls: Calls, batch: Batch) -> None:
    """Raise ProtectionError unless an item's loss and its gradient depend on that item's fields and outputs only.

    Tried with batches of 1 to 64 items (1 to 4 of large patches), with outputs of several sizes, and after each single item was
    changed.

    Args:
        calls: of the network for a few images; the loss is tried with other outputs of the same shapes and types.
        batch: those images.
    """
    widest = max(tensor.numel() // calls.items for tensor in calls.tensors)
    count = max(FEWEST if widest * FEWEST <= LARGEST else FEWEST_OF_LARGE, min(ITEMS, LARGEST // max(1, widest)))
    wanted = batch.rows(torch.arange(count) % len(batch))
    for scale in SCALES:
        # Outputs of other magnitudes than the initial network's, so that a loss cannot pass by accident.
        tried = [_random_outputs(tensor, calls.items, count, scale) for tensor in calls.tensors]

        def tell(items: torch.Tensor, outputs: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
            return _loss_and_slopes(loss, calls, wanted.rows(items), [output[items] for output in outputs])

        each = [tell(torch.tensor([i]), tried) for i in range(count)]
        values = torch.cat([value for value, _ in each])
        slopes = [torch.cat(parts) for parts in zip(*(slope for _, slope in each), strict=True)]
        for size in (size for size in SIZES if size <= count):
            value, slope = tell(torch.arange(size), tried)
            if not _close(value, values[:size]) or not _alike(slope, [s[:size] for s in slopes]):
                raise _coupled()
        few = min(FEWEST, count)
        for changed in range(few):  # the others' losses and gradients must stay when one item changes
            other = [output[:few].clone() for output in tried]
            for output in other:
                output[changed] = output[changed] * -5 + scale if output.is_floating_point() else output[changed]
            value, slope = tell(torch.arange(few), other)
            rest = torch.arange(few) != changed
            if not _close(value[rest], values[:few][rest]) or not _alike(
                [s[rest] for s in slope], [s[:few][rest] for s in slopes]
            ):
                raise _coupled()


def _random_outputs(tensor: torch.Tensor, items: int, count: int, scale: float) -> torch.Tensor:
    """Return random outputs, ``[count, entries of an item, ...]``."""
    shape = (count, len(tensor) // items, *tensor.shape[1:])
    if not tensor.is_floating_point():
        return tensor.reshape(items, *shape[1:])[torch.arange(count) % items]
    return torch.randn(shape, dtype=tensor.dtype) * scale + tensor.mean()


def _loss_and_slopes(
    loss: Loss, calls: Calls, batch: Batch, outputs: list[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the losses, and the gradient of each for its own outputs, ``[items, ...]``.

    It is that of a sum with different weights, each divided by its weight; if a loss also depends on another item's outputs,
    this is not the gradient that the item has alone.
    """
    leaves = [o.clone().requires_grad_() if o.is_floating_point() else o for o in outputs]
    found = _shaped(calls.loss(loss, batch, [leaf.flatten(0, 1) for leaf in leaves]), len(batch))
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    weights = 1 + torch.arange(len(batch), dtype=found.dtype) % 7
    slopes = torch.autograd.grad((found * weights).sum(), wanted, allow_unused=True)
    filled = [torch.zeros_like(leaf) if s is None else s for leaf, s in zip(wanted, slopes, strict=True)]
    return found.detach(), [slope / weights.reshape(-1, *[1] * (slope.dim() - 1)) for slope in filled]


def _shaped(losses: torch.Tensor | None, items: int) -> torch.Tensor:
    if losses is None or losses.shape != (items,):
        raise _coupled()
    return losses


def _altered(batch: Batch) -> Batch:
    """Return other items of the same shapes."""
    return Batch({name: f * -3 if f.is_floating_point() else f.flip(0) for name, f in batch.fields.items()})


def _alike(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return len(found) == len(expected) and all(
        a.shape == b.shape and (_close(a, b) if a.is_floating_point() else torch.equal(a, b))
        for a, b in zip(found, expected, strict=True)
    )


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def _coupled() -> ProtectionError:
    return ProtectionError(
        "The loss of one item depends on other items of its batch, so a patient's contribution cannot be bounded.",
        remedy="Use a loss that is computed for each item by itself: Dice for each image, cross-entropy without a mean over the "
        "batch, hazards in intervals of time in place of Cox's partial likelihood.",
    )
