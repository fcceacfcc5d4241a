"""What must hold before the first step of a job: the clipping is right for this very network and loss.

The checks use random inputs, never data. They catch what would break the guarantee in silence: statistics shared between
patients, losses that couple the items of a batch, and an engine that does not know a layer as well as it believes.
"""

import copy

import torch
from torch import nn

from salus.common.errors import ProtectionError
from salus.common.tasks.base import Task
from salus.privacy.dp.clipping import Clipper, Loss, VmapClipper, looped_sum, make_clipper
from salus.privacy.dp.patients import Patients

TOLERANCE = 1e-5
SHARED = (nn.modules.batchnorm._BatchNorm, nn.SyncBatchNorm)
# Three patients, one of them with two images, not in order.
OF_IMAGE = (0, 1, 2, 1)


def checked_clipper(model: nn.Module, task: Task) -> Clipper:
    """Return the fastest clipper that agrees with a plain loop over patients, relative to 1e-5 in double precision.

    Raises:
        ProtectionError: the network or the loss couples patients, or no clipper is right for it.
    """
    refuse_shared_statistics(model)
    # In training mode, because that is how it will run; without dropout, whose coins would only blur the comparison.
    trial = copy.deepcopy(model).double().cpu().train()
    for layer in trial.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.p = 0.0
    inputs, targets = task.example(len(OF_IMAGE))
    inputs = inputs.double()
    loss = task.loss

    def exact_loss(outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return loss(outputs.double(), wanted)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        refuse_coupled_items(trial, exact_loss, inputs, targets)
        patients = Patients(torch.tensor(OF_IMAGE), max(OF_IMAGE) + 1)
        clipper = make_clipper(model, loss)
        if not isinstance(clipper, VmapClipper) and not _agrees(
            make_clipper(trial, exact_loss), trial, exact_loss, inputs, targets, patients
        ):
            clipper = VmapClipper(model, loss)
        if isinstance(clipper, VmapClipper) and not _agrees(
            VmapClipper(trial, exact_loss), trial, exact_loss, inputs, targets, patients
        ):
            raise ProtectionError(
                "The clipped gradients of this network differ from those of a plain loop over patients.",
                remedy="Choose another model; this one cannot be trained with differential privacy.",
            )
    return clipper


def refuse_shared_statistics(model: nn.Module) -> None:
    """Raise ProtectionError if a layer shares statistics between patients."""
    for name, layer in model.named_modules():
        if isinstance(layer, SHARED):
            raise ProtectionError(
                f"The layer {name!r} is a BatchNorm, which mixes the patients of a batch.",
                remedy="Replace it by GroupNorm, see salus.common.models.norms.with_group_norm.",
            )


def refuse_coupled_items(model: nn.Module, loss: Loss, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """Raise ProtectionError unless outputs do not depend on the batch and its loss is the mean of its items' losses."""
    with torch.no_grad():
        together = model(inputs)
        alone = torch.cat([model(inputs[i : i + 1]) for i in range(len(inputs))])
        if not torch.allclose(together, alone, rtol=TOLERANCE, atol=TOLERANCE):
            raise ProtectionError(
                "The network's output for one image depends on the others in its batch.",
                remedy="Remove BatchNorm, dropout in evaluation and other shared statistics.",
            )
        # Outputs of other sizes than the initial network gives, so that a loss cannot agree by accident.
        spread = together * 3 + torch.randn_like(together)
        whole = loss(spread, targets)
        items = torch.stack([loss(spread[i : i + 1], targets[i : i + 1]) for i in range(len(inputs))])
    if not torch.allclose(whole, items.mean(), rtol=TOLERANCE, atol=TOLERANCE):
        raise ProtectionError(
            "The loss of a batch is not the mean of the losses of its items, so no patient's share can be bounded.",
            remedy="Use a loss without batch-wide sums: Dice with batch=False, cross-entropy without class weights.",
        )


def _agrees(
    clipper: Clipper, model: nn.Module, loss: Loss, inputs: torch.Tensor, targets: torch.Tensor, patients: Patients
) -> bool:
    expected = looped_sum(model, loss, inputs, targets, patients, 1e9)
    clip = float(expected.norms_l2.detach().median())  # some patients are clipped, others not
    expected = looped_sum(model, loss, inputs, targets, patients, clip)
    try:
        found = clipper.clipped_sum(inputs, targets, patients, clip)
    except Exception:
        # Whatever an engine cannot do with a network, the fallback is tried, and after it the job is refused.
        return False
    error = torch.stack([(a - b).norm() for a, b in zip(expected.gradients, found.gradients, strict=True)]).norm()
    size = torch.stack([a.norm() for a in expected.gradients]).norm().clamp(min=1e-12)
    norms = (expected.norms_l2 - found.norms_l2).abs().max() / expected.norms_l2.max().clamp(min=1e-12)
    return bool(error / size < TOLERANCE) and bool(norms < TOLERANCE)
