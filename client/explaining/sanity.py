"""Whether a map can be believed: it must change with the weights, and what it marks must matter to the model.

random weights   the map of a network with the weights of its start must be another one (Adebayo et al. 2018, arXiv 1810.03292)
deletion         the score as the marked pixels are replaced, the strongest first: a small area is good
insertion        the score as they are put into an empty image: a large area is good (Petsiuk et al. 2018, arXiv 1806.07421)
pointing game    whether the strongest pixel lies in the annotated region (Zhang et al. 2018, arXiv 1608.00507)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage, stats

from salus.client.explaining.subject import Bools, FloatArray, Subject

STEPS = 20  # points of a curve; each takes one pass
SMOOTHING = 1 / 32  # of the image's side: the width of the Gaussian with which maps are shown and checked
RANDOM_ORDERS = 3  # with which a curve is compared


@dataclass(frozen=True)
class Curves:
    """Areas under the curves, 0 .. 1, and of random orders.

    Args:
        deletion_curve, insertion_curve: shares of the score at the steps, from nothing changed to all.
    """

    deletion: float
    insertion: float
    random_deletion: float
    random_insertion: float
    deletion_curve: tuple[float, ...]
    insertion_curve: tuple[float, ...]


def smoothed(found: FloatArray, smoothing: float = SMOOTHING) -> FloatArray:
    """Return a map as it is shown and checked: single pixels say little, so it is smoothed; a row as it is."""
    if found.ndim < 2:
        return found
    return np.asarray(ndimage.gaussian_filter(found, [smoothing * side for side in found.shape]), np.float32)


def similarity(one: FloatArray, other: FloatArray) -> float:
    """Return Spearman's correlation of the two maps' absolute values, at least 0; 0 where one is the same everywhere."""
    first, second = np.abs(one).ravel(), np.abs(other).ravel()
    if first.size < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    found = float(stats.spearmanr(first, second).statistic)
    return max(0.0, found) if np.isfinite(found) else 0.0


def curves(subject: Subject, found: FloatArray) -> Curves:
    """Return the curves of a map and the areas of random orders.

    Args:
        found: ``[*spatial]``, or ``[columns]`` of a row.
    """
    rng = np.random.default_rng(subject.seed)
    deletion, insertion = _curve(subject, found, insert=False), _curve(subject, found, insert=True)
    others = [_random_map(found, rng) for _ in range(RANDOM_ORDERS)]
    return Curves(
        area(deletion),
        area(insertion),
        float(np.mean([area(_curve(subject, other, insert=False)) for other in others])),
        float(np.mean([area(_curve(subject, other, insert=True)) for other in others])),
        tuple(deletion),
        tuple(insertion),
    )


def area(curve: list[float]) -> float:
    """Return the area under values at even distances from 0 to 1."""
    return min(1.0, float(np.trapezoid(curve, dx=1 / max(1, len(curve) - 1))))  # rounding may end just above 1


def _random_map(found: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return a random map as smooth as those that are compared."""
    return smoothed(rng.standard_normal(found.shape).astype(np.float32), 2 * SMOOTHING)


def _curve(subject: Subject, found: FloatArray, *, insert: bool) -> list[float]:
    places = torch.from_numpy(ranks(found, subject)).to(subject.inputs.device)
    count = int(places.max()) + 1
    steps = min(STEPS, count)
    start, end = (subject.empty, subject.inputs) if insert else (subject.inputs, subject.empty)
    shares: list[float] = []
    for part in torch.split(torch.arange(steps + 1), subject.at_once):
        moved = torch.cat([torch.where(places < count * int(step) / steps, end, start) for step in part])
        shares += subject.score.share(subject.scores(moved)).clamp(0, 1).tolist()
    return [share if np.isfinite(share) else 0.0 for share in shares]


def ranks(found: FloatArray, subject: Subject) -> npt.NDArray[np.int64]:
    """Return the place of each value in the order, the strongest first; equal values in the order of their places.

    Of an image ``[1, 1, *spatial]``; of a row ``[1, features]``, where all features of a column have its place.
    """
    order = np.argsort(-found.ravel(), kind="stable")
    place = np.empty(found.size, np.int64)
    place[order] = np.arange(found.size)
    if subject.is_row:
        return place[list(subject.groups)][None]
    return place.reshape((1, 1, *found.shape))


def hit(found: FloatArray, region: Bools) -> bool | None:
    """Return whether the largest value lies in the region; None if no place could miss, or none hit, the region.

    A map that is the same everywhere points nowhere and misses.
    """
    if not region.any() or region.all():
        return None
    return bool(np.ptp(found) > 0 and region[np.unravel_index(int(np.argmax(found)), found.shape)])
