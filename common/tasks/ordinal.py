"""Grades in an order, such as BI-RADS or Kellgren-Lawrence: confusing neighbours is a smaller error than confusing extremes.

Soft targets after Diaz and Marathe 2019 ("Soft Labels for Ordinal Regression"): the target of grade k is
softmax(-distance to k / softness). Quadratic weighted kappa after Cohen 1968.
"""

from typing import Annotated

import numpy as np
from pydantic import Field as Key

from salus.common.batch import Batch
from salus.common.optional_torch import constant, torch
from salus.common.registry import settings_of
from salus.common.tasks.base import Step, Totals, full
from salus.common.tasks.classification import ClassificationSettings
from salus.common.tasks.tabular import ImagesOrRows


class OrdinalSettings(ClassificationSettings):
    """Settings of ordinal classification.

    Args:
        softness: Distance of two grades at which the target falls to 1/e; smaller is closer to ordinary classification.
    """

    softness: Annotated[float, Key(gt=0, le=100)] = 0.5  # neighbours of the true grade get about a tenth each


class Ordinal(ImagesOrRows):
    """One grade per image; `task.classes` lists the grades in their order."""

    Settings = OrdinalSettings
    headline = ("kappa", "mean_grade_error", "auc")

    @constant
    def targets(self) -> torch.Tensor:
        """The soft target of each grade, float64 ``[grades, grades]``."""
        own = settings_of(self.settings, OrdinalSettings)
        grades = torch.arange(self.classes, dtype=torch.float64)
        return torch.softmax(-(grades[:, None] - grades).abs() / own.softness, dim=1)

    def losses(self, model: torch.nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        """Return each item's cross-entropy with the soft target of its grade."""
        logits, labels = full(self.infer(model, batch)), batch["label"]
        targets, weights = self.targets.to(logits)[labels], self.weights.to(logits)[labels]
        return -(targets * torch.log_softmax(logits, dim=1)).sum(dim=1) * weights

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return the metrics of a classification, and mean_grade_error and kappa (quadratic weights)."""
        result = super().metrics(totals)
        if result:
            confusion, _, _ = self._parts(totals)
            result |= ordinal_metrics(confusion)
        return result


def ordinal_metrics(confusion: Totals) -> dict[str, float]:
    """Return the mean distance of the predicted from the true grade, and kappa if both vary; rows are true grades.

    Empty without items.
    """
    grades = np.arange(len(confusion))
    distance = np.abs(grades[:, None] - grades)
    items = confusion.sum()
    if items <= 0:
        return {}
    by_chance = np.outer(confusion.sum(axis=1), confusion.sum(axis=0)) / items
    result = {"mean_grade_error": float((distance * confusion).sum() / items)}
    expected = (distance**2 * by_chance).sum()
    if expected > 0:
        result["kappa"] = float(1 - (distance**2 * confusion).sum() / expected)
    return result
