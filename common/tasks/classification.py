"""Classification of 2-D and 3-D images, with metrics that are sums and therefore survive any protection.

AUC comes from histograms of the log-odds per class (Hanley and McNeil 1982: the area is the chance that a positive
scores above a negative; pairs within one bin count half). Calibration error after Naeini et al. 2015, 15 equal bins.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from salus.common.errors import DataError, JobError
from salus.common.job import TaskSettings
from salus.common.tasks.base import FloatArray, Totals

SCORE_BINS = 256
LOG_ODDS_LIMIT = 12.0  # beyond, float32 softmax is 0 or 1 anyway
CALIBRATION_BINS = 15
PRIVATE_BINS = 8  # noise is added to every bin, so few of them
PRIVATE_LOSS_LIMIT = 4.0
LOSS_LIMIT = 20.0  # one item's loss counts at most this, so that its share of the statistic is at most 1


class Classification:
    """One label per image out of `settings.classes`."""

    def __init__(self, settings: TaskSettings) -> None:
        if len(settings.shape) not in (2, 3):
            raise JobError(
                f"Expected task.shape with 2 or 3 sides for classification, got {list(settings.shape)}.",
                remedy='Write for example "shape = [64, 64]".',
            )
        self.settings = settings
        self.classes = len(settings.classes)
        self.scores = 1 if self.classes == 2 else self.classes  # two classes have one score, the others one each

    def prepare(self, values: FloatArray) -> torch.Tensor:
        """Return the image resampled to the job's shape and brought from 0 .. 1 to -1 .. 1.

        Args:
            values: ``[channels, *spatial]``, 0 .. 1.

        Raises:
            DataError: another number of channels or dimensions than the job's.
        """
        image = torch.from_numpy(np.array(values, dtype=np.float32))
        shape = self.settings.shape
        if image.ndim != len(shape) + 1 or image.shape[0] != self.settings.channels:
            raise DataError(
                f"Expected images of {self.settings.channels} channel(s) and {len(shape)} dimensions, "
                f"got {image.shape[0]} and {image.ndim - 1}.",
                remedy="Use a job that fits this data set, or register another one under its name.",
            )
        if tuple(image.shape[1:]) != shape:
            if len(shape) == 2:
                image = F.interpolate(image[None], size=shape, mode="bilinear", antialias=True, align_corners=False)[0]
            else:
                image = F.interpolate(image[None], size=shape, mode="trilinear", align_corners=False)[0]
        return image * 2 - 1

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return mean cross-entropy; `outputs` are logits ``[batch, classes]``, `targets` class numbers ``[batch]``."""
        return F.cross_entropy(outputs, targets)

    @property
    def statistics_size(self) -> int:
        return 2 + 2 * self.classes + self.scores * 2 * SCORE_BINS + 3 * CALIBRATION_BINS

    def statistics(self, outputs: torch.Tensor, targets: torch.Tensor) -> Totals:
        """Return [items, loss, support per class, hits per class, score histograms, calibration bins]."""
        logits = outputs.detach().double().cpu()
        labels = targets.cpu().numpy()
        losses = F.cross_entropy(logits, targets.cpu(), reduction="none").clamp(0, LOSS_LIMIT) / LOSS_LIMIT
        log_p = torch.log_softmax(logits, dim=1)
        confidence, predicted = (array.numpy() for array in log_p.exp().max(dim=1))
        hits = (predicted == labels).astype(np.float64)
        support = np.bincount(labels, minlength=self.classes).astype(np.float64)
        right = np.bincount(labels, weights=hits, minlength=self.classes)
        return np.concatenate(
            [
                [float(len(labels)), float(losses.sum())],
                support,
                right,
                self._score_histograms(log_p.numpy(), labels),
                _calibration(confidence, hits),
            ]
        )

    def _score_histograms(self, log_p: Totals, labels: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Totals:
        histograms = np.zeros((self.scores, 2, SCORE_BINS))
        for score in range(self.scores):
            label = 1 if self.scores == 1 else score
            rest = np.log(np.maximum(-np.expm1(log_p[:, label]), 1e-300))
            log_odds = np.clip(log_p[:, label] - rest, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT)
            bins = ((log_odds / LOG_ODDS_LIMIT + 1) / 2 * (SCORE_BINS - 1)).round().astype(np.int64)
            np.add.at(histograms[score], ((labels == label).astype(np.int64), bins), 1.0)
        return histograms.reshape(-1)

    @property
    def private_statistics_size(self) -> int:
        return 3 + self.scores * 2 * PRIVATE_BINS

    def private_statistics(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return rows of [1, loss, hit, one cell of a coarse score histogram], divided by the norm that this can have."""
        logits = outputs.detach().double().cpu()
        labels = targets.cpu()
        losses = F.cross_entropy(logits, labels, reduction="none").clamp(0, PRIVATE_LOSS_LIMIT) / PRIVATE_LOSS_LIMIT
        probability = torch.softmax(logits, dim=1)
        rows = torch.zeros(len(labels), self.private_statistics_size, dtype=torch.float64)
        rows[:, 0] = 1.0
        rows[:, 1] = losses
        rows[:, 2] = (logits.argmax(dim=1) == labels).double()
        for score in range(self.scores):
            label = 1 if self.scores == 1 else score
            cell = (probability[:, label] * PRIVATE_BINS).long().clamp(0, PRIVATE_BINS - 1)
            first = 3 + score * 2 * PRIVATE_BINS
            rows[torch.arange(len(labels)), first + (labels == label).long() * PRIVATE_BINS + cell] = 1.0
        return rows / math.sqrt(3 + self.scores)

    def private_metrics(self, totals: Totals) -> dict[str, float]:
        """Return noisy accuracy, loss and auc, each cut to its possible range."""
        values = totals * math.sqrt(3 + self.scores)
        items = float(values[0])
        if items < 1.0:
            return {}
        result = {
            "accuracy": float(np.clip(values[2] / items, 0, 1)),
            "loss": float(np.clip(values[1] / items, 0, 1) * PRIVATE_LOSS_LIMIT),
        }
        histograms = np.maximum(values[3:], 0).reshape(self.scores, 2, PRIVATE_BINS)
        areas = [area for area in (area_under_curve(h[0], h[1]) for h in histograms) if area is not None]
        if areas:
            result["auc"] = float(np.mean(areas))
        return result

    def example(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return standard normal inputs and uniform labels."""
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(count, *self._input_shape(), generator=generator)
        return inputs, torch.randint(0, self.classes, (count,), generator=generator)

    def _input_shape(self) -> tuple[int, ...]:
        return (self.settings.channels, *self.settings.shape)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return auc, accuracy, loss, calibration_error and recall_<class>; auc only where both sides occur."""
        items = totals[0]
        if items < 0.5:  # nobody contributed an item
            return {}
        support, right, rest = np.split(totals[2:], [self.classes, 2 * self.classes])
        histograms = rest[: self.scores * 2 * SCORE_BINS].reshape(self.scores, 2, SCORE_BINS)
        calibration = rest[self.scores * 2 * SCORE_BINS :].reshape(3, CALIBRATION_BINS)
        result = {
            "accuracy": float(right.sum() / items),
            "loss": float(totals[1] * LOSS_LIMIT / items),
            "calibration_error": float(np.abs(calibration[1] - calibration[2]).sum() / items),
        }
        areas = [area for area in (area_under_curve(h[0], h[1]) for h in histograms) if area is not None]
        if areas:
            result["auc"] = float(np.mean(areas))
        for name, count, hit in zip(self.settings.classes, support, right, strict=True):
            if count > 0.5:
                result[f"recall_{name}"] = float(hit / count)
        return result


def area_under_curve(negatives: Totals, positives: Totals) -> float | None:
    """Return the ROC area from two histograms over the same ascending bins, or None if one of them is empty."""
    total = negatives.sum() * positives.sum()
    if total < 0.25:
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / total)


def _calibration(confidence: Totals, hits: Totals) -> Totals:
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    return np.concatenate(
        [np.bincount(bins, weights=w, minlength=CALIBRATION_BINS) for w in (np.ones_like(hits), confidence, hits)]
    )
