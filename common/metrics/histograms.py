"""Histograms of cases: where a case falls, and the quantiles of a sum of such histograms."""

import math
from collections.abc import Sequence

from salus.common.optional_torch import torch
from salus.common.tasks.base import Totals


def one_hot_bins(values: torch.Tensor, edges: Sequence[float], counted: torch.Tensor) -> torch.Tensor:
    """Return a 1 in the bin of each counted value and 0 elsewhere, float64 ``[..., len(edges) - 1]``.

    Args:
        values: ``[...]``; values beyond the edges, infinity included, fall into the first or last bin.
        edges: ascending, the lower edge of each bin and the upper edge of the last.
        counted: boolean ``[...]``.
    """
    inner = torch.tensor(edges[1:-1], dtype=torch.float64)
    bins = torch.bucketize(torch.nan_to_num(values.double(), nan=math.inf, posinf=math.inf), inner, right=True)
    return torch.nn.functional.one_hot(bins, len(edges) - 1).double() * counted[..., None]


def quantile(counts: Totals, edges: Sequence[float], share: float) -> float | None:
    """Return a quantile of binned values, linear within a bin, or None without values.

    Args:
        counts: ``[len(edges) - 1]``.
        share: 0.5 is the median.
    """
    total = float(counts.sum())
    if total < 0.5:
        return None
    wanted, below = share * total, 0.0
    for count, low, high in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        if count > 0 and below + count >= wanted:
            return float(low + (high - low) * (wanted - below) / count)
        below += max(count, 0.0)
    return float(edges[-1])
