"""In which order a site trains on its items without noise, and what is added to a batch against classes of unequal size."""

from collections.abc import Callable

import torch

from salus.client.data.tensors import TensorSet, Use
from salus.common.batch import Batch
from salus.common.job import TaskSettings
from salus.common.tasks.base import Task
from salus.common.tasks.mixing import COUNTS, mixed
from salus.common.tasks.steps import has_noise

PART = 256  # items that are looked at together
LEAST_SHARE = 0.01  # of the mean weight of hard sampling: no item is lost for an epoch because it was easy once


class Balance:
    """What a job's settings say about sampling, site counts and mixup; without them, nothing is read or drawn.

    Args:
        losses: of the items of a batch by the present model, for hard sampling.
    """

    def __init__(self, task: Task, data: TensorSet, losses: Callable[[Batch], torch.Tensor]) -> None:
        self._data, self._losses = data, losses
        self._sampling = getattr(task.settings, "sampling", "shuffled")
        self._input, self._mixup = getattr(task, "input", ""), mixup_of(task.settings)
        self._counts: torch.Tensor | None = None
        self._labels: torch.Tensor | None = None
        needs_counts = getattr(getattr(task, "loss", None), "of_site", False)
        if self._sampling == "balanced" or needs_counts:
            self._labels = _labels(data, len(task.settings.classes))
        if needs_counts and self._labels is not None:
            self._counts = self._labels.sum(dim=0)

    def order(self, epoch: int, seed: int, generator: torch.Generator) -> torch.Tensor:
        """Return the positions of an epoch's items, as many as there are items.

        Guarantee: without a setting this is one random permutation, as before there were settings.
        """
        if self._sampling == "shuffled" or not len(self._data):
            return torch.randperm(len(self._data), generator=generator)
        weights = self._balanced() if self._sampling == "balanced" else self._hard(Use(seed.to_bytes(8), epoch))
        return torch.multinomial(weights, len(self._data), replacement=True, generator=generator)

    def _balanced(self) -> torch.Tensor:
        """Return weights by which each class is drawn as often; of several findings, each one as often as its absence."""
        assert self._labels is not None  # Safe because they were read for this sampling.
        labels, count = self._labels, len(self._labels)
        if bool((labels.sum(dim=1) == 1).all()) and labels.shape[1] > 1:
            return (labels / labels.sum(dim=0).clamp(min=1)).sum(dim=1)
        present = labels.sum(dim=0)
        return (labels / present.clamp(min=1) + (1 - labels) / (count - present).clamp(min=1)).sum(dim=1)

    def _hard(self, use: Use) -> torch.Tensor:
        found = []
        with torch.inference_mode():
            for rows in self._data.parts(torch.arange(len(self._data)), PART):
                losses = self._losses(self._data.batch(rows, use)).double().cpu()
                found.append(losses.reshape(len(rows), -1).mean(dim=1))  # of the copies of each item
        weights = torch.nan_to_num(torch.cat(found)).clamp(min=0)
        return weights + LEAST_SHARE * weights.mean() + 1e-12

    def changed(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return a batch with the site's counts, if the loss needs them, and mixed, if the job says so."""
        if self._counts is not None:
            counts = self._counts.to(batch.device).expand(len(batch), -1)
            batch = Batch({**batch.fields, COUNTS: counts})
        return mixed(batch, self._input, self._mixup, generator) if self._mixup else batch


def mixed_within(task: Task, patient: Batch, generator: torch.Generator) -> Batch:
    """Return one patient's items, mixed among themselves where the job says so: no other patient enters them."""
    alpha = mixup_of(task.settings)
    return mixed(patient, getattr(task, "input", ""), alpha, generator) if alpha else patient


def draws_in_steps(task: Task) -> bool:
    """Return whether a step under noise draws numbers: the task's noise fields, or shares of mixup."""
    return has_noise(task.spec) or mixup_of(task.settings) > 0


def mixup_of(settings: TaskSettings) -> float:
    """Return the parameter of a job's mixup; 0 for none, and for tasks that do not have it."""
    return float(getattr(settings, "mixup", 0.0))


def _labels(data: TensorSet, classes: int) -> torch.Tensor:
    """Return which classes each item has, float64 0 or 1, ``[items, classes]``."""
    if not len(data):
        return torch.zeros(0, classes, dtype=torch.float64)
    labels = data.targets()
    return (labels if labels.dim() == 2 else torch.nn.functional.one_hot(labels, classes)).double()
