"""Losses and batches for tests of the clipping engine."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from salus.common.batch import Batch
from salus.privacy.dp.calls import Loss
from salus.privacy.dp.patients import Patients, grid


def items(x: torch.Tensor, y: torch.Tensor) -> Batch:
    """Return a batch of images and labels."""
    return Batch({"image": x, "label": y})


def loss_of(each: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Loss:
    """Return a loss from a function of the network's outputs and the labels that returns one number per item."""

    def losses(model: nn.Module, batch: Batch) -> torch.Tensor:
        return each(model(batch["image"]), batch["label"])

    return losses


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return each item's cross-entropy."""
    return F.cross_entropy(outputs, targets, reduction="none")


loss = loss_of(cross_entropy)


def batch_of(x: torch.Tensor, y: torch.Tensor, numbers: Sequence[int], free: int = 1) -> tuple[Batch, Patients]:
    """Return images of patients with these numbers as a grid with some free rows."""
    patients = sorted(set(numbers))
    images = [[i for i, p in enumerate(numbers) if p == patient] for patient in patients]
    return grid([items(x[i], y[i]) for i in images], len(patients) + free, max(map(len, images)))
