"""Classification of 2-D and 3-D images, with metrics computed from sums, so that they work under any protection.

AUC comes from histograms of the log-odds per class (Hanley and McNeil 1982: the area is the chance that a positive
scores above a negative; pairs within one bin count half). Calibration error after Naeini et al. 2015, 15 equal bins.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field as Key
from pydantic import model_validator

from salus.common.batch import Batch, Field
from salus.common.class_losses import make_class_loss
from salus.common.class_losses.base import ClassLoss
from salus.common.declaration import target_of
from salus.common.errors import DataError, JobError
from salus.common.estimates import Metric
from salus.common.examples import Example
from salus.common.figures import Figures, one_against_the_rest
from salus.common.imbalance import ImbalanceSettings
from salus.common.job import TaskSettings
from salus.common.optional_torch import TORCH, constant, torch
from salus.common.optional_torch import functional as F
from salus.common.registry import Registry
from salus.common.tasks.base import ONE_STEP, Said, Step, Totals, finite, full
from salus.common.tasks.coarse import Coarse
from salus.common.tasks.mixing import mixed_losses
from salus.common.transforms.chain import Chain
from salus.common.transforms.intensity import Rescale
from salus.common.transforms.resizing import Resize

SCORE_BINS = 256
LOG_ODDS_LIMIT = 12.0  # beyond this, softmax in float32 is 0 or 1
CALIBRATION_BINS = 15
DEFAULT_CHAIN = (Resize.Settings(), Rescale.Settings())  # to the job's shape, grey values from 0 .. 1 to -1 .. 1
LOSS_LIMIT = 20.0  # one item's loss counts at most this, so that its share of the statistic is at most 1


Weight = Annotated[float, Key(gt=0, le=1e4)]


class ClassificationSettings(TaskSettings):
    """Settings of the tasks with one label per item.

    Args:
        class_weights: Factor for the loss of each class's items, so that rare classes count; empty for none. Take them from
            counts over all sites: `salus stats --weights` writes this key.
    """

    class_weights: tuple[Weight, ...] = ()

    @model_validator(mode="after")
    def _classes_to_tell_apart(self) -> Self:
        if len(self.classes) < 2:
            raise ValueError("expected at least two different classes")
        check_weights(self.class_weights, self.classes)
        return self


def check_weights(weights: Sequence[float], classes: Sequence[str]) -> None:
    """Raise ValueError unless there is no weight or one for each class."""
    if weights and len(weights) != len(classes):
        raise ValueError(f"expected one of class_weights for each of the {len(classes)} classes")


class LabelSettings(ImbalanceSettings, ClassificationSettings):
    """Settings of `classification` and `tabular`; the loss adds keys of its own."""

    plugins: ClassVar[Mapping[str, str | Registry]] = {"class_loss": "salus.common.class_losses:CLASS_LOSSES"}


class Classification:
    """One label per image out of `settings.classes`."""

    Settings: type[TaskSettings] = LabelSettings
    steps = ONE_STEP
    headline: Sequence[str] = ("auc", "accuracy")

    def __init__(self, settings: TaskSettings) -> None:
        if len(settings.shape) not in (2, 3):
            raise JobError(
                f"Expected task.shape with 2 or 3 sides for classification, got {list(settings.shape)}.",
                remedy='Write for example "shape = [64, 64]".',
            )
        self._set(settings, {"image": Field((settings.channels, *settings.shape), spatial=True)})

    def _set(self, settings: TaskSettings, inputs: dict[str, Field]) -> None:
        self.settings = settings
        self.chain = Chain.of(settings.transforms or (DEFAULT_CHAIN if settings.shape else ()), settings)
        self.classes = len(settings.classes)
        self.input = next(iter(inputs))
        self.spec = {**inputs, "label": Field((), "int64", 0, self.classes)}
        self.coarse = Coarse(settings.classes)
        self.scores = self.coarse.scores
        if TORCH:
            assert self.loss  # built now, so that wrong settings are refused when the job is checked

    @constant
    def loss(self) -> ClassLoss:
        """The loss that the job names."""
        return make_class_loss(getattr(self.settings, "class_loss", "cross-entropy"), self.settings)

    @constant
    def weights(self) -> torch.Tensor:
        """The job's factor for each class, float32 ``[classes]``."""
        return torch.tensor(getattr(self.settings, "class_weights", ()) or (1.0,) * self.classes)

    def target(self, label: str) -> npt.NDArray[Any] | None:
        """Return what a label means to this task, as the spec's field ``label``; None if it means nothing to it."""
        number = target_of(label, self.settings.classes)
        return None if number is None else np.array(number, dtype=np.int64)

    def prepare(self, example: Example) -> dict[str, torch.Tensor]:
        """Return the inputs and, where the example has one, its label.

        Raises:
            DataError: the example does not fit the job.
        """
        label = {"label": torch.as_tensor(example["label"])} if "label" in example else {}
        return {self.input: self._inputs(example), **label}

    def _inputs(self, example: Example) -> torch.Tensor:
        """Return the image, ``[channels, *shape]``."""
        image = np.array(example["image"], dtype=np.float32)
        shape = (self.settings.channels, *self.settings.shape)
        if image.shape != shape:
            raise DataError(
                f"Expected images of {list(shape)} after the transforms, got {list(image.shape)}.",
                remedy="End the chain with a resize or a center-crop to task.shape.",
            )
        return torch.from_numpy(image)

    def said(self, outputs: torch.Tensor) -> Said:
        """Return the most probable class, with the probability of each."""
        shares = torch.softmax(outputs.double(), dim=0).tolist()
        probabilities = dict(zip(self.settings.classes, shares, strict=True))
        return Said(max(probabilities, key=lambda name: probabilities[name]), probabilities)

    def losses(self, model: torch.nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        """Return each item's loss by `settings.class_loss`, by default the cross-entropy weighted by its class."""
        return mixed_losses(self.loss, full(self.infer(model, batch)), batch)

    def infer(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return logits ``[items, classes]``."""
        logits: torch.Tensor = model(batch[self.input])
        return logits

    @property
    def statistics_size(self) -> int:
        return 2 + self.classes**2 + self.scores * 2 * SCORE_BINS + 3 * CALIBRATION_BINS

    def rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return [1, loss, confusion matrix (rows are true classes), score histograms, calibration bins] of each item."""
        logits, labels = finite(outputs), batch["label"].cpu()
        items = torch.arange(len(labels))
        losses = F.cross_entropy(logits, labels, reduction="none").clamp(0, LOSS_LIMIT) / LOSS_LIMIT
        log_p = torch.log_softmax(logits, dim=1)
        confidence, predicted = log_p.exp().max(dim=1)
        confusion = torch.zeros(len(labels), self.classes**2, dtype=torch.float64)
        confusion[items, labels * self.classes + predicted] = 1.0
        bins = (confidence * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
        calibration = torch.zeros(len(labels), 3, CALIBRATION_BINS, dtype=torch.float64)
        for place, values in enumerate((torch.ones_like(confidence), confidence, (predicted == labels).double())):
            calibration[items, place, bins] = values
        counted = torch.stack([torch.ones_like(losses), losses], dim=1)
        return torch.cat([counted, confusion, self._score_histograms(log_p, labels), calibration.flatten(1)], dim=1)

    def _score_histograms(self, log_p: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        histograms = torch.zeros(len(labels), self.scores, 2, SCORE_BINS, dtype=torch.float64)
        for score in range(self.scores):
            label = 1 if self.scores == 1 else score
            rest = torch.log((-torch.expm1(log_p[:, label])).clamp(min=1e-300))
            bins = score_bins(log_p[:, label] - rest)
            histograms[torch.arange(len(labels)), score, (labels == label).long(), bins] = 1.0
        return histograms.flatten(1)

    @property
    def private_statistics_size(self) -> int:
        return self.coarse.size

    def private_rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the rows of `Coarse`."""
        return self.coarse.rows(outputs.detach().double().cpu(), batch["label"].cpu())

    def private_metrics(self, totals: Totals, noise_sd: float) -> dict[str, Metric]:
        """Return auc, accuracy and, with two classes, recall_<class>."""
        return self.coarse.metrics(totals, noise_sd)

    def private_figures(self, totals: Totals, noise_sd: float) -> Figures:
        """Return the fitted ROC curves and, with two classes, the noisy confusion matrix."""
        return self.coarse.figures(totals, noise_sd)

    def foretold(self, patients: float, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics of a model with an area of 0.90."""
        return self.coarse.foretold(patients, noise_sd)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return auc, accuracy, balanced_accuracy, loss, calibration_error, and of each class recall, precision, F1 and AUC.

        A metric without a denominator is left out: of a class without items, or an area without positives or negatives. The
        balanced accuracy is the mean recall of the classes with items.
        """
        items = totals[0]
        if items < 0.5:  # no site contributed an item
            return {}
        confusion, histograms, calibration = self._parts(totals)
        support, right = confusion.sum(axis=1), np.diag(confusion)
        result = {
            "accuracy": float(right.sum() / items),
            "loss": float(totals[1] * LOSS_LIMIT / items),
            "calibration_error": float(np.abs(calibration[1] - calibration[2]).sum() / items),
        }
        areas = [area_under_curve(h[0], h[1]) for h in histograms]
        found = [area for area in areas if area is not None]
        if found:
            result["auc"] = float(np.mean(found))
        if len(areas) > 1:  # with two classes both have the area of the one score
            named = zip(self.settings.classes, areas, strict=True)
            result |= {f"auc_{name}": area for name, area in named if area is not None}
        return result | of_classes(self.settings.classes, right, support, confusion.sum(axis=0))

    def figures(self, totals: Totals) -> Figures:
        """Return the exact confusion matrix, ROC and precision-recall curves of each score, and the calibration."""
        if totals[0] < 0.5:
            return Figures()
        confusion, histograms, (counts, confidence, hits) = self._parts(totals)
        names = self.settings.classes[1:] if self.scores == 1 else self.settings.classes
        return one_against_the_rest(names, histograms).model_copy(
            update={
                "classes": self.settings.classes,
                "confusion": tuple(tuple(float(round(count)) for count in row) for row in confusion),
                "calibration": tuple(
                    (float(sure / count), float(hit / count))
                    for count, sure, hit in zip(counts, confidence, hits, strict=True)
                    if count > 0.5
                ),
            }
        )

    def _parts(self, totals: Totals) -> tuple[Totals, Totals, Totals]:
        """Return the confusion matrix ``[true, predicted]``, the histograms ``[scores, 2, bins]`` and the calibration bins."""
        ends = np.cumsum([self.classes**2, self.scores * 2 * SCORE_BINS])
        confusion, histograms, calibration = np.split(totals[2:], ends)
        return (
            confusion.reshape(self.classes, self.classes),
            histograms.reshape(self.scores, 2, SCORE_BINS),
            calibration.reshape(3, CALIBRATION_BINS),
        )


def of_classes(names: Sequence[str], hits: Totals, actual: Totals, said: Totals) -> dict[str, float]:
    """Return balanced_accuracy, and recall_<class>, precision_<class> and f1_<class> where they are defined.

    Args:
        hits: items of each class that the model gives this class.
        actual: items of each class.
        said: items that the model gives each class.
    """
    result: dict[str, float] = {}
    recalls = [float(hit / count) for hit, count in zip(hits, actual, strict=True) if count > 0.5]
    if recalls:
        result["balanced_accuracy"] = float(np.mean(recalls))
    for name, hit, count, given in zip(names, hits, actual, said, strict=True):
        if count > 0.5:
            result[f"recall_{name}"] = float(hit / count)
            result[f"f1_{name}"] = float(2 * hit / (count + max(given, 0.0)))  # a site may send what no rows have
        if given > 0.5:
            result[f"precision_{name}"] = float(hit / given)
    return result


def score_bins(log_odds: torch.Tensor) -> torch.Tensor:
    """Return the bin of each score in a histogram of `SCORE_BINS` bins; scores that are not numbers are in the middle."""
    limited = torch.nan_to_num(log_odds).clamp(-LOG_ODDS_LIMIT, LOG_ODDS_LIMIT)
    return ((limited / LOG_ODDS_LIMIT + 1) / 2 * (SCORE_BINS - 1)).round().long()


def area_under_curve(negatives: Totals, positives: Totals) -> float | None:
    """Return the ROC area from two histograms over the same ascending bins, or None if one of them is empty."""
    total = negatives.sum() * positives.sum()
    if total < 0.25:
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / total)
