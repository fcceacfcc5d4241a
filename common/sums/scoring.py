"""Models from sums, applied: what a finished model says about a patient, and how good it is on patients of no sum.

A kind of statistics whose `model` is more than a summary fulfils `Scored` beside `Sums`. Its sums are over all patients that a
site holds; in a simulation no site holds the test split.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import numpy as np

from salus.common.batch import Batch, Field
from salus.common.job import TaskSettings
from salus.common.optional_torch import torch
from salus.common.sums.base import Float64Vector, Measured
from salus.common.tasks.base import Said, Task
from salus.common.tasks.classification import Classification


@runtime_checkable
class Scored(Protocol):
    """Statistics whose model can be applied to a single patient's image or row."""

    headline: ClassVar[Sequence[str]]
    """Names of the metrics that are shown first."""

    def said(self, model: Mapping[str, Any], image: Measured) -> Said | None:
        """Return what a finished model says; None where it cannot say anything, such as for a missing value."""

    def scores(self, model: Mapping[str, Any], images: Iterable[Measured]) -> dict[str, float]:
        """Return the metrics of a finished model; empty without patients of whom the truth is known."""


@runtime_checkable
class Evaluated(Protocol):
    """Statistics whose model is evaluated at the sites, by rows that add up over patients and sites."""

    @property
    def evaluation(self) -> Task:
        """The task whose rows, metrics and figures these are."""

    def evaluation_rows(self, model: Mapping[str, Any], image: Measured) -> torch.Tensor | None:
        """Return the row of one image for `evaluation`, ``[1, row]``; None where the model or the label says nothing."""


class _Metrics(Classification):
    """The metrics of a classification, without any input."""

    def __init__(self, settings: TaskSettings) -> None:
        self._set(settings.model_copy(update={"transforms": (), "shape": ()}), {"features": Field((1,))})


def classified(settings: TaskSettings, logits: Sequence[Float64Vector], labels: Sequence[int]) -> dict[str, float]:
    """Return the metrics of a classification, as training jobs have them; empty without patients.

    Args:
        settings: of a job, with its classes.
        logits: of each patient, ``[classes]``.
        labels: class numbers.
    """
    if not labels:
        return {}
    task = _Metrics(settings)
    batch = Batch({"label": torch.tensor(labels)})
    return task.metrics(task.rows(torch.from_numpy(np.stack(logits)), batch).sum(dim=0).numpy())


def binary_logits(log_odds: float) -> Float64Vector:
    """Return logits of two classes whose difference is the log-odds of the second."""
    return np.array([-log_odds / 2, log_odds / 2])


def said_of(classes: Sequence[str], logits: Float64Vector) -> Said:
    """Return the most probable class with the probability of each."""
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    probabilities = dict(zip(classes, shares.tolist(), strict=True))
    return Said(max(probabilities, key=lambda name: probabilities[name]), probabilities)


class FromLogits(ABC):
    """The part of `Scored` that all classifiers from sums share."""

    _task: TaskSettings

    @abstractmethod
    def _logits(self, model: Mapping[str, Any], image: Measured) -> Float64Vector | None:
        """Return the logits of each class; None where the model cannot say anything."""

    def said(self, model: Mapping[str, Any], image: Measured) -> Said | None:
        """Return the most probable class, with the probability of each."""
        logits = self._logits(model, image)
        return None if logits is None else said_of(self._task.classes, logits)

    @functools.cached_property
    def evaluation(self) -> Task:
        """The classification of the job's classes."""
        return cast("Task", _Metrics(self._task))  # a task in all but its settings, which no job states

    def evaluation_rows(self, model: Mapping[str, Any], image: Measured) -> torch.Tensor | None:
        """Return the row of a classification."""
        logits = self._logits(model, image) if image.label is not None else None
        if logits is None:
            return None
        batch = Batch({"label": torch.tensor([image.label])})
        return self.evaluation.rows(torch.from_numpy(np.asarray(logits)[None]), batch)

    def scores(self, model: Mapping[str, Any], images: Iterable[Measured]) -> dict[str, float]:
        """Return the metrics of a classification."""
        known = [(self._logits(model, image), image.label) for image in images if image.label is not None]
        pairs = [(logits, label) for logits, label in known if logits is not None]
        return classified(self._task, [logits for logits, _ in pairs], [label for _, label in pairs])
