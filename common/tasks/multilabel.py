"""Several findings per image: each class is present or absent, whatever the others are.

The label of an image names its findings, separated by ``|`` or ``;``. Metrics are those of each class against its absence.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from salus.common.batch import Batch, Field
from salus.common.declaration import findings_of
from salus.common.estimates import Metric
from salus.common.figures import MAX_CURVES, Curve, Figures, one_against_the_rest
from salus.common.imbalance import ImbalanceSettings
from salus.common.job import TaskSettings
from salus.common.job_statistics import Label
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import torch
from salus.common.registry import Registry, settings_of
from salus.common.tasks.base import Said, Step, Totals, finite, full
from salus.common.tasks.binormal import area_of, fit_curve
from salus.common.tasks.classification import (
    LOSS_LIMIT,
    SCORE_BINS,
    Weight,
    area_under_curve,
    check_weights,
    of_classes,
    score_bins,
)
from salus.common.tasks.coarse import CELLS, EDGES, RAREST, mean_area, ratio, typical_histogram
from salus.common.tasks.mixing import mixed_losses
from salus.common.tasks.tabular import ImagesOrRows

PER_CLASS = 2 * SCORE_BINS
PRESENT = 0.5  # probability above which a finding is said to be present
CONFIDENT = EDGES.index(0.0) + 1


class MultiLabelSettings(TaskSettings):
    """Settings of multi-label classification.

    Args:
        class_weights: Factor for each class's present findings in the loss, so that rare findings count; empty for none.
        no_finding: Labels that count as none of the classes; an image with any other label that is not a class is left out.
    """

    class_weights: tuple[Weight, ...] = ()
    no_finding: tuple[Label, ...] = ("No Finding",)  # as in the labels of ChestX-ray14

    @model_validator(mode="after")
    def _some_class(self) -> Self:
        if not self.classes:
            raise ValueError("expected at least one class")
        check_weights(self.class_weights, self.classes)
        return self


class SeveralLabelSettings(ImbalanceSettings, MultiLabelSettings):
    """Settings of `multilabel`; the loss adds keys of its own."""

    plugins: ClassVar[Mapping[str, str | Registry]] = {"class_loss": "salus.common.class_losses:CLASS_LOSSES"}


class MultiLabel(ImagesOrRows):
    """Any number of the job's classes per image."""

    Settings: type[TaskSettings] = SeveralLabelSettings
    headline = ("auc", "accuracy")

    def _set(self, settings: TaskSettings, inputs: dict[str, Field]) -> None:
        super()._set(settings, inputs)
        self.own = settings_of(settings, MultiLabelSettings)
        self.spec = {**inputs, "label": Field((self.classes,), "int64", 0, 2)}

    def target(self, label: str) -> npt.NDArray[Any] | None:
        """Return 0 or 1 for each class, or None if the label names something else."""
        findings = set(findings_of(label)) - set(self.own.no_finding)
        if not findings <= set(self.settings.classes) or not label:
            return None
        return np.array([name in findings for name in self.settings.classes], dtype=np.int64)

    def said(self, outputs: torch.Tensor) -> Said:
        """Return the classes that are more probable than not, with the probability of each."""
        shares = torch.sigmoid(outputs.double()).tolist()
        probabilities = dict(zip(self.settings.classes, shares, strict=True))
        present = [name for name, share in probabilities.items() if share > PRESENT]
        return Said("|".join(present) or next(iter(self.own.no_finding), ""), probabilities)

    def losses(self, model: torch.nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        """Return each item's loss by `settings.class_loss`, by default the binary cross-entropy, the mean over the classes."""
        return mixed_losses(self.loss, full(self.infer(model, batch)), batch)

    @property
    def statistics_size(self) -> int:
        return 2 + self.classes * PER_CLASS

    def rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return [1, loss, for each class a histogram of the log-odds of absent and of present findings] of each item."""
        logits, present = finite(outputs), batch["label"].cpu()
        losses = F.binary_cross_entropy_with_logits(logits, present.double(), reduction="none").mean(dim=1)
        histograms = torch.zeros(len(logits), self.classes, 2, SCORE_BINS, dtype=torch.float64)
        histograms.scatter_(3, score_bins(logits)[..., None, None].expand(-1, -1, 2, 1), 1.0)
        histograms *= F.one_hot(present, 2)[..., None]
        counted = torch.stack([torch.ones_like(losses), losses.clamp(0, LOSS_LIMIT) / LOSS_LIMIT], dim=1)
        return torch.cat([counted, histograms.flatten(1)], dim=1)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return the mean auc and accuracy over the classes, loss, and auc, recall, precision and f1 of each class."""
        items = totals[0]
        if items < 0.5:
            return {}
        histograms = self._histograms(totals)
        middle = SCORE_BINS // 2
        right = histograms[:, 0, :middle].sum() + histograms[:, 1, middle:].sum()
        result = {"loss": float(totals[1] * LOSS_LIMIT / items)}
        if histograms.sum() > 0:
            result["accuracy"] = float(right / histograms.sum())
        areas = {}
        for name, histogram in zip(self.settings.classes, histograms, strict=True):
            area = area_under_curve(histogram[0], histogram[1])
            if area is not None:
                areas[name] = area
        if areas:
            result["auc"] = float(np.mean(list(areas.values())))
        result |= {f"auc_{name}": area for name, area in areas.items()}
        said = histograms[:, :, middle:].sum(axis=2)  # absent and present ones that are said to be present
        each = of_classes(self.settings.classes, said[:, 1], histograms[:, 1].sum(axis=1), said.sum(axis=1))
        each.pop("balanced_accuracy", None)  # of classes that exclude each other
        return result | each

    def figures(self, totals: Totals) -> Figures:
        """Return the ROC and precision-recall curves of each class."""
        if totals[0] < 0.5:
            return Figures()
        return one_against_the_rest(self.settings.classes, self._histograms(totals))

    def _histograms(self, totals: Totals) -> Totals:
        return totals[2:].reshape(self.classes, 2, SCORE_BINS)

    @property
    def private_statistics_size(self) -> int:
        return self.classes * 2 * CELLS

    def private_rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return a coarse histogram for each class, as `Coarse` has for two classes, divided by the largest norm."""
        logits, present = torch.nan_to_num(outputs.detach().double().cpu()), batch["label"].cpu()
        cells = torch.bucketize(logits, torch.tensor(EDGES, dtype=torch.float64))
        rows = F.one_hot(present * CELLS + cells, 2 * CELLS).double()
        return rows.flatten(1) / math.sqrt(self.classes)

    def private_metrics(self, totals: Totals, noise_sd: float) -> dict[str, Metric]:
        """Return the mean auc and accuracy over the classes, auc_<class> and recall_<class>."""
        histograms, noise_sd = self._coarse(totals, noise_sd)
        areas = [area_of(fit_curve(histogram, noise_sd)) for histogram in histograms]
        right = np.concatenate([histograms[:, 0, :CONFIDENT].ravel(), histograms[:, 1, CONFIDENT:].ravel()])
        wrong = np.concatenate([histograms[:, 0, CONFIDENT:].ravel(), histograms[:, 1, :CONFIDENT].ravel()])
        result: dict[str, Metric] = {"auc": mean_area(areas), "accuracy": ratio(right, wrong, noise_sd)}
        for name, area, histogram in zip(self.settings.classes, areas, histograms, strict=True):
            result[f"auc_{name}"] = area
            result[f"recall_{name}"] = ratio(histogram[1, CONFIDENT:], histogram[1, :CONFIDENT], noise_sd)
        return result

    def private_figures(self, totals: Totals, noise_sd: float) -> Figures:
        """Return the fitted ROC curve of each class."""
        histograms, noise_sd = self._coarse(totals, noise_sd)
        curves = [
            (name, fit_curve(histogram, noise_sd))
            for name, histogram in zip(self.settings.classes, histograms, strict=True)
        ]
        drawn = [
            Curve(name=name, points=curve.points()) for name, curve in curves if curve and not curve.area.too_noisy
        ]
        return Figures(curves=tuple(drawn[:MAX_CURVES]), fitted=True)

    def foretold(self, patients: float, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics of a model with an area of 0.90 for each class, a quarter of the patients with each."""
        histogram = typical_histogram(patients, 1 - RAREST)  # absent findings first
        totals = np.tile(histogram.reshape(-1), self.classes) / math.sqrt(self.classes)
        return self.private_metrics(totals, noise_sd)

    def _coarse(self, totals: Totals, noise_sd: float) -> tuple[Totals, float]:
        factor = math.sqrt(self.classes)
        return totals.reshape(self.classes, 2, CELLS) * factor, noise_sd * factor
