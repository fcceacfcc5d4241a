"""How well objects are followed: MOTA and IDF1, from counts that add up over clips and sites.

    MOTA  1 - (missed + false + switches) / objects   (Bernardin and Stiefelhagen 2008)
    IDF1  2 IDTP / (2 IDTP + IDFP + IDFN)   (Ristani et al. 2016, arXiv 1609.01775)

Both count boxes over frames. For IDF1 each clip's tracks are assigned to its true tracks once for the whole clip, so that as
many boxes as possible agree.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from salus.common.optional_torch import torch
from salus.common.tasks.base import Totals
from salus.common.trackers.base import FORBIDDEN, FloatArray, overlap_of

LEAST_OVERLAP = 0.5
COUNTS = ("objects", "found", "missed", "false", "switches", "same")  # "same" is IDTP
Seen = Sequence[tuple[int, FloatArray]]


def counted(true: Sequence[Seen], found: Sequence[Seen], least: float = LEAST_OVERLAP) -> dict[str, int]:
    """Return the counts of one clip.

    Args:
        true, found: the numbers and boxes of each frame.
        least: smallest intersection over union of a match.
    """
    counts = dict.fromkeys(COUNTS, 0)
    last: dict[int, int] = {}  # the track that each true object had when it was matched last
    together: dict[tuple[int, int], int] = defaultdict(int)
    for wanted, got in zip(true, found, strict=True):
        counts["objects"] += len(wanted)
        counts["found"] += len(got)
        pairs = _matched(wanted, got, last, least, together)
        for number, track in pairs:
            counts["switches"] += last.get(number, track) != track
            last[number] = track
        counts["missed"] += len(wanted) - len(pairs)
        counts["false"] += len(got) - len(pairs)
    counts["same"] = _same(together)
    return counts


def _matched(
    true: Seen, found: Seen, last: dict[int, int], least: float, together: dict[tuple[int, int], int]
) -> list[tuple[int, int]]:
    """Return the matched numbers of one frame: pairs of before are kept where they still overlap."""
    if not true or not found:
        return []
    overlap = overlap_of(np.stack([box for _, box in true]), np.stack([box for _, box in found]))
    for row, column in np.argwhere(overlap >= least).tolist():
        together[true[row][0], found[column][0]] += 1
    costs = np.where(overlap >= least, 1.0 - overlap, FORBIDDEN)
    for row, (number, _) in enumerate(true):
        for column, (track, _) in enumerate(found):
            if last.get(number) == track and costs[row, column] < FORBIDDEN:
                costs[row, column] -= FORBIDDEN / 1000
    rows, columns = linear_sum_assignment(costs)
    return [(true[r][0], found[c][0]) for r, c in zip(rows, columns, strict=True) if costs[r, c] < FORBIDDEN / 2]


def _same(together: dict[tuple[int, int], int]) -> int:
    """Return how many boxes agree under the best assignment of tracks to true tracks."""
    if not together:
        return 0
    trues, tracks = (sorted({pair[place] for pair in together}) for place in (0, 1))
    table = np.array([[together.get((one, other), 0) for other in tracks] for one in trues])
    rows, columns = linear_sum_assignment(-table)
    return int(table[rows, columns].sum())


@dataclass(frozen=True)
class Tracking:
    """The rows of clips, and the metrics of their sum.

    Args:
        most: boxes of a clip at most, true and found each; every count is divided by it.
    """

    most: int

    @property
    def size(self) -> int:
        """Length of a row, the entries of `COUNTS`."""
        return len(COUNTS)

    def row(self, true: Sequence[Seen], found: Sequence[Seen]) -> torch.Tensor:
        """Return a clip's row, float64 ``[size]``, each entry between 0 and 1."""
        counts = counted(true, found)
        return torch.tensor([counts[name] / self.most for name in COUNTS], dtype=torch.float64)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return mota, idf1, switches, recall and precision; empty without true objects."""
        sums = dict(zip(COUNTS, (totals * self.most).tolist(), strict=True))
        if sums["objects"] < 0.5 or sums["found"] < 0:
            return {}
        wrong = sums["missed"] + sums["false"] + sums["switches"]
        right = sums["objects"] - sums["missed"]
        return {
            "mota": 1 - wrong / sums["objects"],
            "idf1": 2 * sums["same"] / (sums["objects"] + sums["found"]),
            "switches": sums["switches"],
            "recall": right / sums["objects"],
            **({"precision": right / sums["found"]} if sums["found"] > 0.5 else {}),
        }
