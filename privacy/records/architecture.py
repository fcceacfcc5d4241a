"""Whether a job's network has layers from whose updates single samples can be read, see `privacy.imprint`."""

import functools

import torch

from salus.common.batch import Batch, empty_batch, example_batch
from salus.common.job import Job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.tasks.base import Task
from salus.privacy.imprint import imprint_layers, imprint_layers_of_samples

ITEMS = 2
SPREAD = 0.1  # of the parameters of the trial with values
TRIED = 8  # random samples; enough that some have what others lack


def revealing_layers(job: Job) -> list[str]:
    """Return the wide layers of a job's network directly on the raw input, by name, such as ``1 (64 outputs)``.

    Raises:
        JobError: a model that cannot be built.
        Exception: of the network itself, which then cannot be checked.
    """
    task = make_task(job.task)
    with torch.device("meta"):  # shapes only: no memory, no arithmetic
        model = build_model(job.task, 0)
        batch = empty_batch(task.spec, ITEMS)
        found = imprint_layers(model, lambda network: _every_step(task, network, batch), ITEMS)
    return found and _of_samples(task, job)


def _of_samples(task: Task, job: Job) -> list[str]:
    """Return the layers found whose input changes with the samples: two runs with values, and the same noise."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        network = build_model(job.task, 0)
        with torch.no_grad():
            for parameter in network.parameters():  # a factor that starts at zero would hide what it lets through later
                parameter.add_(torch.randn_like(parameter), alpha=SPREAD)
        batch = example_batch(task.spec, TRIED)
        other = Batch(
            {name: field if task.spec[name].noise else field.roll(1, 0) for name, field in batch.fields.items()}
        )
        found: list[str] = []
        for place in range(TRIED):  # one after the other: a job may be as large as a single sample allows
            one, two = batch.rows(slice(place, place + 1)), other.rows(slice(place, place + 1))
            found += imprint_layers_of_samples(
                network,
                functools.partial(_every_step, task, batch=one),
                functools.partial(_every_step, task, batch=two),
                1,
            )
        return list(dict.fromkeys(found))


def _every_step(task: Task, network: torch.nn.Module, batch: Batch) -> None:
    """Give a network what the steps give it that read data."""
    for step in task.steps:
        if step.data:
            task.losses(network, batch, step)
