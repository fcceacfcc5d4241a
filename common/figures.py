"""The figures of an evaluated model, as plain numbers: ROC, precision-recall and calibration curves, and a confusion matrix."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from salus.common.strict import Strict

MAX_CURVES = 10  # more cannot be distinguished in one plot
MAX_POINTS = 64
Point = tuple[float, float]


class Curve(Strict):
    """A curve.

    Args:
        name: the class that is compared with the others.
        points: from left to right; both numbers are between 0 and 1.
    """

    name: str
    points: tuple[Point, ...]


class Figures(Strict):
    """The figures of a report; an empty field was not measured.

    Args:
        curves: ROC curves, false and true positive rate, from (0, 0) to (1, 1).
        fitted: the ROC curves are fits to noisy counts.
        classes: names of the rows (true) and columns (predicted) of `confusion`.
        errors: standard error of each cell of `confusion`; empty if the counts are exact.
        precision_recall: recall and precision.
        calibration: mean confidence and share of right predictions, one point for each interval of confidence that occurs.
    """

    curves: Annotated[tuple[Curve, ...], Field(max_length=MAX_CURVES)] = ()
    fitted: bool = False
    classes: tuple[str, ...] = ()
    confusion: tuple[tuple[float, ...], ...] = ()
    errors: tuple[tuple[float, ...], ...] = ()
    precision_recall: Annotated[tuple[Curve, ...], Field(max_length=MAX_CURVES)] = ()
    calibration: tuple[Point, ...] = ()


def figures_of(value: object) -> Figures:
    """Return the figures in an event; unknown keys of newer versions are ignored, and invalid figures are empty."""
    if not isinstance(value, dict):
        return Figures()
    try:
        return Figures.model_validate({key: value[key] for key in Figures.model_fields if key in value}, strict=False)
    except ValueError:
        return Figures()


def roc_points(negatives: npt.NDArray[np.float64], positives: npt.NDArray[np.float64]) -> tuple[Point, ...]:
    """Return the points of a ROC curve from two histograms over the same ascending bins; none if one of them is empty."""
    if min(negatives.sum(), positives.sum()) < 0.5:
        return ()
    rates = [np.concatenate([[0.0], np.cumsum(side[::-1]) / side.sum()]) for side in (negatives, positives)]
    moves = np.flatnonzero(np.concatenate([[True], (np.diff(rates[0]) + np.diff(rates[1])) > 0]))
    chosen = moves[np.unique(np.linspace(0, len(moves) - 1, MAX_POINTS).round().astype(int))]
    return tuple((float(rates[0][i]), float(rates[1][i])) for i in chosen)


def precision_recall_points(
    negatives: npt.NDArray[np.float64], positives: npt.NDArray[np.float64]
) -> tuple[Point, ...]:
    """Return recall and precision for every threshold, from two histograms over the same ascending bins, in rising recall.

    Thresholds at which nothing is found are left out; without positives there are no points.
    """
    if positives.sum() < 0.5:
        return ()
    found, wrong = np.cumsum(positives[::-1]), np.cumsum(negatives[::-1])
    steps = np.flatnonzero(np.diff(found + wrong, prepend=0.0) > 0)
    chosen = steps[np.unique(np.linspace(0, len(steps) - 1, MAX_POINTS).round().astype(int))]
    return tuple((float(found[i] / positives.sum()), float(found[i] / (found[i] + wrong[i]))) for i in chosen)


def one_against_the_rest(names: Sequence[str], histograms: npt.NDArray[np.float64]) -> Figures:
    """Return the ROC and precision-recall curves of each score, from exact histograms ``[scores, 2, bins]``.

    Cells below 0, which no site has honestly added, count as empty.
    """
    pairs = list(zip(names, np.maximum(histograms, 0.0), strict=True))[:MAX_CURVES]
    roc = [Curve(name=name, points=roc_points(h[0], h[1])) for name, h in pairs]
    recall = [Curve(name=name, points=precision_recall_points(h[0], h[1])) for name, h in pairs]
    return Figures(
        curves=tuple(curve for curve in roc if curve.points),
        precision_recall=tuple(curve for curve in recall if curve.points),
    )
