"""Checks before the first step of a job: the clipping is correct for this network and loss.

The checks use random inputs, never data, and random parameters, never the job's: a start may be crafted so that a layer passes
nothing on for the inputs of a check, and then nothing could be seen of it (see `drawn_anew`). They find what would silently
break the guarantee: statistics shared between patients, losses that couple the items of a batch, and an engine that handles a
layer incorrectly. What they cannot prove: a network or loss that couples patients only for inputs or parameters that no check
tries is accepted. But the engines evaluate the loss for one image at a time (`calls`, `clipping.VmapClipper`), so such a loss
couples at most the images of one patient.
"""

import copy
import functools

import torch
from torch import nn

from salus.common.batch import Batch, example_batch
from salus.common.errors import JobError, ProtectionError
from salus.common.tasks.base import Step, Task
from salus.privacy.dp.calls import Loss
from salus.privacy.dp.clipped import Clipper, Loop
from salus.privacy.dp.clipping import VmapClipper, make_clipper
from salus.privacy.dp.coupling import refuse_coupled_items, refuse_coupled_losses, refuse_coupled_outputs
from salus.privacy.dp.patients import Patients, grid
from salus.privacy.dp.plan import Plan

TOLERANCE = 1e-5
SHARED = (nn.modules.batchnorm._BatchNorm, nn.SyncBatchNorm)
SPREAD = 0.1  # of the vectors of the trial network, such as biases
DRAW_SEED = 1
# Images of the patients in the check: one full row, one with a copy, one free row.
TRIAL = (2, 1, 1, 0)


def checked_clipper(model: nn.Module, task: Task, step: Step | None = None) -> Clipper:
    """Return the fastest clipper that agrees with a plain loop over patients, relative to 1e-5 in double precision.

    Args:
        step: of the task; its first one by default.

    Raises:
        ProtectionError: the network or the loss couples patients, or no clipper is correct for it.
    """
    refuse_shared_statistics(model)
    # In training mode, as in training.
    trial = drawn_anew(without_dropout(model)).double().cpu().train()
    loss: Loss = functools.partial(task.losses, step=step or task.steps[0])
    batch = example_batch(task.spec, sum(TRIAL)).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        refuse_unreached(trial, loss, batch.rows(slice(0, 1)))
        clipper = make_clipper(model, loss)
        try:
            calls = refuse_coupled_outputs(trial, loss, batch)
        except RuntimeError:
            clipper = VmapClipper(model, loss)  # the loss cannot be taken apart
            refuse_coupled_losses(trial, loss, batch)
        else:
            refuse_coupled_items(loss, calls, batch)
        parts, first = [], 0
        for images in TRIAL:
            parts.append(batch.rows(slice(first, first + images)))
            first += images
        rows = grid([part for part in parts if len(part)], len(TRIAL), max(TRIAL))
        if not isinstance(clipper, VmapClipper) and not _agrees(make_clipper(trial, loss), trial, loss, *rows):
            clipper = VmapClipper(model, loss)
        if isinstance(clipper, VmapClipper) and not _agrees(VmapClipper(trial, loss), trial, loss, *rows):
            raise ProtectionError(
                "The clipped gradients of this network differ from those of a plain loop over patients.",
                remedy="Choose another model; this one does not support differential privacy.",
            )
    return clipper


def steps_under_noise(task: Task, plan: Plan) -> tuple[Step, list[Step]]:
    """Return the step that reads data, which is clipped and noised, and those that read none, which cost nothing.

    The latter start from what the noised step has already released.

    Raises:
        JobError: several steps that read data, each of which would be a release of its own; or steps without data in a job whose
            rounds are one noised step, because then the server moves the parameters.
    """
    reading, free = [step for step in task.steps if step.data], [step for step in task.steps if not step.data]
    if len(reading) != 1:
        raise JobError(
            f"Expected one step that reads data, but the task has {len(reading)}.",
            remedy='Use noise = "none" for this task.',
        )
    if free and (plan.mode == "distributed" or plan.steps == 1):
        raise JobError(
            f"The task's step {free[0].name!r} reads no data; the sites can take it only between noised steps of their own.",
            remedy='Set noise = "local" and privacy.steps_per_round to at least 2.',
        )
    return reading[0], free


def refuse_unreached(model: nn.Module, loss: Loss, batch: Batch) -> None:
    """Raise ProtectionError for a trained parameter that the loss never reaches, because engines differ in what it adds."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    slopes = torch.autograd.grad(loss(model, batch).sum(), [parameter for _, parameter in named], allow_unused=True)
    for (name, _), slope in zip(named, slopes, strict=True):
        if slope is None:
            raise ProtectionError(
                f"The loss does not depend on the model's parameter {name!r}.",
                remedy="Leave it out of the model, or list only the parameters to be trained in task.trainable.",
            )


def without_dropout(model: nn.Module) -> nn.Module:
    """Return a copy of a network without dropout, whose randomness would disturb the comparison."""
    trial = copy.deepcopy(model)
    for layer in trial.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.p = 0.0
    return trial


def drawn_anew(model: nn.Module, seed: int = DRAW_SEED) -> nn.Module:
    """Give a network parameters of a check's own, and return it; frozen ones, too.

    What is zero in the given ones, such as the second factor of an adapter, is not. Matrices are drawn as He et al. 2015 (arXiv
    1502.01852) do, so that deep networks neither fade nor explode.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = torch.randn(parameter.shape, generator=draw)
            if parameter.dim() >= 2:
                value *= (2 / max(1, parameter[0].numel())) ** 0.5
            else:
                value = SPREAD * value + float(name.rpartition(".")[2] == "weight")  # norms multiply by about one
            parameter.copy_(value)
    return model


def refuse_shared_statistics(model: nn.Module) -> None:
    """Raise ProtectionError if a layer shares statistics between patients."""
    for name, layer in model.named_modules():
        if isinstance(layer, SHARED):
            raise ProtectionError(
                f"The layer {name!r} is a BatchNorm, which mixes the patients of a batch.",
                remedy="Replace it with GroupNorm; see salus.common.models.norms.with_group_norm.",
            )


def _agrees(clipper: Clipper, model: nn.Module, loss: Loss, batch: Batch, patients: Patients) -> bool:
    loop = Loop(model, loss, batch, patients)
    clip = float(loop.norms_l2[patients.present].median())  # some patients are clipped, others not
    expected = loop.clipped_sum(clip)
    try:
        found = clipper.clipped_sum(batch, patients, clip)
    except Exception:
        # If an engine fails for any reason, the fallback is tried; if that fails too, the job is refused.
        return False
    error = torch.stack([(a - b).norm() for a, b in zip(expected.gradients, found.gradients, strict=True)]).norm()
    size = torch.stack([a.norm() for a in expected.gradients]).norm().clamp(min=1e-12)
    norms = (expected.norms_l2 - found.norms_l2).abs().max() / expected.norms_l2.max().clamp(min=1e-12)
    return bool(error / size < TOLERANCE) and bool(norms < TOLERANCE)
