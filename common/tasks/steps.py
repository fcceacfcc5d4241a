"""Which parameters a step changes, and what it is given."""

import contextlib
from collections.abc import Iterator

from salus.common.batch import Batch, Spec, example_batch
from salus.common.errors import JobError
from salus.common.optional_torch import torch
from salus.common.tasks.base import Step, Task


def trained_by(model: torch.nn.Module, step: Step) -> list[torch.nn.Parameter]:
    """Return the parameters that a step changes: those under its prefix that are not frozen."""
    return [p for name, p in model.named_parameters() if p.requires_grad and name.startswith(step.parameters)]


@contextlib.contextmanager
def stepping(model: torch.nn.Module, step: Step) -> Iterator[None]:
    """Let only a step's own parameters collect gradients; the others are as before afterwards."""
    own = {id(parameter) for parameter in trained_by(model, step)}
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(id(parameter) in own)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def check_steps(model: torch.nn.Module, task: Task) -> None:
    """Raise JobError unless every trained parameter belongs to exactly one of the task's steps, and every step has one."""
    for name, parameter in model.named_parameters():
        steps = [step.name for step in task.steps if name.startswith(step.parameters)]
        if parameter.requires_grad and len(steps) != 1:
            found = f"the steps {' and '.join(steps)}" if steps else "none"
            raise JobError(
                f"Expected the parameter {name!r} to be trained by one step of the task, found {found}.",
                remedy="Use the model that the task is made for, or list the parameters to be trained in task.trainable.",
            )
    for step in task.steps:
        if not trained_by(model, step):
            raise JobError(
                f"The step {step.name!r} of the task has no parameter to train.",
                remedy=f'Add "{step.parameters}" to task.trainable.',
            )


def given(spec: Spec, step: Step, batch: Batch, generator: torch.Generator) -> Batch:
    """Return what a step may see: the batch with new noise, or without data as many items of noise alone.

    Raises:
        JobError: a step without data, and a task without noise fields.
    """
    return with_noise(batch, spec, generator) if step.data else noise_alone(spec, len(batch), generator, batch.device)


def with_noise(batch: Batch, spec: Spec, generator: torch.Generator) -> Batch:
    """Return a batch with the spec's noise fields, standard normal."""
    return Batch({**batch.fields, **_noise(spec, len(batch), generator, batch.device)})


def noise_alone(spec: Spec, items: int, generator: torch.Generator, device: torch.device) -> Batch:
    """Return the noise fields of so many items and nothing else; errors as in `given`."""
    fields = _noise(spec, items, generator, device)
    if not fields:
        raise JobError("A step without data needs a noise field in the task's spec.", remedy="Correct the task.")
    return Batch(fields)


def has_noise(spec: Spec) -> bool:
    """Return whether a task draws numbers in every step."""
    return any(field.noise for field in spec.values())


def _noise(spec: Spec, items: int, generator: torch.Generator, device: torch.device) -> dict[str, torch.Tensor]:
    return {
        name: torch.randn(items, *field.shape, generator=generator).to(device)
        for name, field in spec.items()
        if field.noise
    }


def check_outputs(model: torch.nn.Module, task: Task) -> None:
    """Check on a random item that the task can use what the model returns.

    Raises:
        JobError: it cannot, such as a classifier's outputs for a segmentation.
    """
    batch = example_batch(task.spec, 1)
    try:
        with torch.no_grad():
            fits = task.losses(model, batch, task.steps[0]).shape == (1,)
    except (
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ):  # what torch raises for tensors that do not fit
        fits = False
    if not fits:
        raise JobError(
            f"The model {task.settings.model!r} does not fit the task {task.settings.kind!r} with these settings.",
            remedy="Choose a model for this kind of task; `salus job new` names one that fits.",
        )
