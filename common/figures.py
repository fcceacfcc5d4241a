"""The figures of an evaluated model: ROC curves and a confusion matrix, as plain numbers."""

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from salus.common.strict import Strict

MAX_CURVES = 10  # more cannot be distinguished in one plot
MAX_POINTS = 64
Point = tuple[float, float]


class Roc(Strict):
    """A ROC curve.

    Args:
        name: the class that is compared with the others.
        points: false and true positive rate, from (0, 0) to (1, 1).
    """

    name: str
    points: tuple[Point, ...]


class Figures(Strict):
    """The figures of a report; an empty field was not measured.

    Args:
        fitted: the curves are fits to noisy counts.
        classes: names of the rows (true) and columns (predicted) of `confusion`.
        errors: standard error of each cell of `confusion`; empty if the counts are exact.
    """

    curves: Annotated[tuple[Roc, ...], Field(max_length=MAX_CURVES)] = ()
    fitted: bool = False
    classes: tuple[str, ...] = ()
    confusion: tuple[tuple[float, ...], ...] = ()
    errors: tuple[tuple[float, ...], ...] = ()


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
