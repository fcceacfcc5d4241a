"""Evaluation under differential privacy: few numbers per patient, and the metrics of their noisy sum.

Two classes: one histogram of the log-odds for each class, ``2 * CELLS`` numbers of which one is 1. The threshold at log-odds
0 gives accuracy, recall and the confusion matrix; all thresholds together give the area under the ROC curve. More classes:
such a histogram for each class against the rest and one number for a hit, divided by the largest possible norm.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from salus.common.estimates import NOTHING, Estimate, Metric
from salus.common.figures import MAX_CURVES, Curve, Figures
from salus.common.optional_torch import torch
from salus.common.tasks.base import Totals
from salus.common.tasks.binormal import area_of, fit_curve

# Public thresholds on the log-odds; they suit both confident and cautious networks (compared in `docs/privacy.md`).
EDGES = (-4.0, -2.0, 0.0, 2.0, 4.0)
CELLS = len(EDGES) + 1
SURE = EDGES.index(0.0) + 1  # first cell in which a class is predicted
TYPICAL_SHIFT, TYPICAL_SPREAD = 1.63, 1.8  # of log-odds, either side of 0: an area of 0.90, to predict exactness
LEAST_ITEMS = 3.0  # a count must be this many standard errors above zero to be a divisor
RAREST = 0.25  # share of the rarest class, also for the prediction


@dataclass(frozen=True)
class Coarse:
    """The rows of a task with some classes, and the metrics of their noisy sum."""

    classes: tuple[str, ...]

    @property
    def scores(self) -> int:
        """Number of histograms: one for two classes, otherwise one for each class."""
        return 1 if len(self.classes) == 2 else len(self.classes)

    @property
    def hit(self) -> int:
        """Number of entries for a hit: 0 for two classes, where the histogram shows it."""
        return 0 if self.scores == 1 else 1

    @property
    def size(self) -> int:
        """Length of a row."""
        return self.hit + self.scores * 2 * CELLS

    @property
    def norm_l2(self) -> float:
        """Euclidean norm by which rows are divided."""
        return math.sqrt(self.hit + self.scores)

    def rows(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return one row for each item, float64, of Euclidean norm at most 1.

        Args:
            logits: float64 ``[batch, classes]``.
            labels: class numbers ``[batch]``.
        """
        rows = torch.zeros(len(labels), self.size, dtype=torch.float64)
        items = torch.arange(len(labels))
        edges = torch.tensor(EDGES, dtype=torch.float64)
        if self.hit:
            rows[:, 0] = (logits.argmax(dim=1) == labels).double()
        for score in range(self.scores):
            label = 1 if self.scores == 1 else score
            rest = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1).logsumexp(dim=1)
            cell = torch.bucketize(torch.nan_to_num(logits[:, label] - rest), edges)
            rows[items, self.hit + score * 2 * CELLS + (labels == label).long() * CELLS + cell] = 1.0
        return rows / self.norm_l2

    def metrics(self, totals: Totals, noise_sd: float) -> dict[str, Metric]:
        """Return auc, accuracy and, with two classes, recall_<class>, each with its standard error and never clipped.

        Args:
            totals: the sum of rows of all patients of all sites, with noise.
            noise_sd: standard deviation of the noise in each entry of `totals`.
        """
        cells, noise_sd = totals * self.norm_l2, noise_sd * self.norm_l2
        histograms = cells[self.hit :].reshape(self.scores, 2, CELLS)
        areas = [area_of(fit_curve(histogram, noise_sd)) for histogram in histograms]
        result: dict[str, Metric] = {"auc": mean_area(areas)}
        if self.hit:
            # Every item is in one cell of each histogram, so the mean of their sums counts items with the least noise.
            items, variance = float(cells[1:].sum()) / self.scores, noise_sd**2
            result["accuracy"] = _share(float(cells[0]), items, variance, variance * 2 * CELLS / self.scores, 0.0)
            return result
        negatives, positives = histograms[0]
        right = np.concatenate([negatives[:SURE], positives[SURE:]])
        wrong = np.concatenate([negatives[SURE:], positives[:SURE]])
        result["accuracy"] = ratio(right, wrong, noise_sd)
        result[f"recall_{self.classes[0]}"] = ratio(negatives[:SURE], negatives[SURE:], noise_sd)
        result[f"recall_{self.classes[1]}"] = ratio(positives[SURE:], positives[:SURE], noise_sd)
        return result

    def figures(self, totals: Totals, noise_sd: float) -> Figures:
        """Return the fitted ROC curves and, with two classes, the noisy confusion matrix with its standard error."""
        cells, noise_sd = totals * self.norm_l2, noise_sd * self.norm_l2
        names = self.classes[1:] if self.scores == 1 else self.classes
        histograms = cells[self.hit :].reshape(self.scores, 2, CELLS)
        curves = [(name, fit_curve(h, noise_sd)) for name, h in zip(names, histograms, strict=True)]
        drawn = [
            Curve(name=name, points=curve.points()) for name, curve in curves if curve and not curve.area.too_noisy
        ]
        if self.hit:
            return Figures(curves=tuple(drawn[:MAX_CURVES]), fitted=True)
        confusion = tuple((float(h[:SURE].sum()), float(h[SURE:].sum())) for h in histograms[0])
        errors = tuple(noise_sd * math.sqrt(count) for count in (SURE, CELLS - SURE))
        return Figures(
            curves=tuple(drawn), fitted=True, classes=self.classes, confusion=confusion, errors=(errors, errors)
        )

    def foretold(self, patients: float, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics that an evaluation with this many patients would give for a typical model, with expected errors.

        A typical model has an area of 0.90, and the rarest class has a share of 1/4, or 1/classes if that is smaller.
        """
        histogram = typical_histogram(patients, min(RAREST, 1 / len(self.classes)))
        if self.scores > 1:  # this class against the rest
            histogram = histogram[::-1, ::-1]
        hits = [0.8 * patients] * self.hit
        totals = np.concatenate([hits, *[histogram.reshape(-1)] * self.scores]) / self.norm_l2
        return self.metrics(totals, noise_sd)


def typical_histogram(patients: float, rare: float) -> Totals:
    """Return the counts ``[2, CELLS]`` of a typical model with two classes, of which the first has a share of `rare`."""
    edges = np.asarray(EDGES, dtype=np.float64)
    shares = [
        np.diff(np.concatenate([[0.0], special.ndtr((edges - sign * TYPICAL_SHIFT) / TYPICAL_SPREAD), [1.0]]))
        for sign in (-1, 1)
    ]
    return patients * np.stack([rare * shares[0], (1 - rare) * shares[1]])


def ratio(part: Totals, others: Totals, noise_sd: float) -> Estimate:
    """Return part / (part + others) of noisy cells."""
    hits, items = float(part.sum()), float(part.sum() + others.sum())
    variance = noise_sd**2 * np.array([len(part), len(part) + len(others), len(part)])
    return _share(hits, items, *(float(v) for v in variance))


def _share(hits: float, items: float, hits_variance: float, items_variance: float, covariance: float) -> Estimate:
    """Return hits / items by the delta method; sampling error after Agresti and Coull 1998, which is not zero at 0 and 1."""
    if items < max(0.5, LEAST_ITEMS * math.sqrt(items_variance)):
        return NOTHING
    share = hits / items
    noise = (hits_variance - 2 * share * covariance + share**2 * items_variance) / items**2
    shrunk = (min(max(hits, 0.0), items) + 2) / (items + 4)
    sampling = shrunk * (1 - shrunk) / (items + 4)
    return Estimate(value=share, standard_error=math.sqrt(noise + sampling), noise_error=math.sqrt(max(noise, 0.0)))


def mean_area(areas: list[Estimate]) -> Estimate:
    """Return the mean of areas; their noise is independent, and the choice of patients is treated as common to all."""
    values = [area.value for area in areas if area.value is not None]
    noises = [area.noise_error for area in areas if area.noise_error is not None]
    errors = [area.standard_error for area in areas if area.standard_error is not None]
    if len(values) < len(areas):
        return NOTHING
    noise = math.hypot(*noises) / len(areas)
    sampling = sum(math.sqrt(max(e**2 - n**2, 0.0)) for e, n in zip(errors, noises, strict=True)) / len(areas)
    return Estimate(value=sum(values) / len(areas), standard_error=math.hypot(noise, sampling), noise_error=noise)
