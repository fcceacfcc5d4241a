"""Average precision of scored objects, from histograms of scores that add up over items and sites.

Precision counts at each recall as the best at this or a larger recall, and the area is taken over all recalls, as in
PASCAL VOC since 2010 (Everingham et al. 2015) but with scores in bins: objects within one bin count as tied.
"""

from dataclasses import dataclass

import numpy as np

from salus.common.optional_torch import torch
from salus.common.tasks.base import Totals

BINS = 50


@dataclass(frozen=True)
class AveragePrecision:
    """Rows of right and wrong objects by score, and the average precision of their sum.

    Args:
        most: objects of an item at most, annotated and found; every entry of a row is divided by it.
    """

    most: int

    @property
    def size(self) -> int:
        """Length of a row: annotated objects, right ones by score, wrong ones by score."""
        return 1 + 2 * BINS

    def row(self, scores: torch.Tensor, right: torch.Tensor, annotated: int) -> torch.Tensor:
        """Return an item's row, float64 ``[size]``, each entry between 0 and 1.

        Args:
            scores: ``[found]`` from 0 to 1, at most `most`.
            right: boolean ``[found]``, whether an object was matched, each annotated one at most once.
        """
        bins = (scores.double() * BINS).long().clamp(0, BINS - 1)
        histograms = [torch.bincount(bins[chosen], minlength=BINS).double() for chosen in (right, ~right)]
        return torch.cat([torch.tensor([float(annotated)], dtype=torch.float64), *histograms]) / self.most

    def value(self, totals: Totals) -> float | None:
        """Return the average precision of summed rows, or None without annotated objects."""
        annotated = totals[0]
        if annotated * self.most < 0.5:
            return None
        right, wrong = (np.cumsum(part[::-1]) for part in np.split(totals[1:], 2))
        found = right + wrong
        precision = np.divide(right, found, out=np.zeros_like(right), where=found > 0)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        steps = np.diff(right / annotated, prepend=0.0)
        return float(np.clip((best * steps).sum(), 0.0, 1.0))


def matched(overlaps: torch.Tensor, scores: torch.Tensor, least: float) -> torch.Tensor:
    """Return which found objects are right, boolean ``[found]``, see `partners`."""
    return partners(overlaps, scores, least) >= 0


def partners(overlaps: torch.Tensor, scores: torch.Tensor, least: float) -> torch.Tensor:
    """Return each found object's annotated one, int64 ``[found]``, -1 for a wrong one.

    The best score chooses first, and each annotated object is chosen at most once.

    Args:
        overlaps: intersection over union ``[found, annotated]``.
        least: smallest overlap that counts.
    """
    chosen = torch.full((len(scores),), -1)
    free = torch.ones(overlaps.shape[1], dtype=torch.bool)
    for place in torch.argsort(scores, descending=True, stable=True).tolist():
        mine = overlaps[place] * free
        if len(mine) and float(mine.max()) >= least:
            best = int(mine.argmax())
            chosen[place], free[best] = best, False
    return chosen
