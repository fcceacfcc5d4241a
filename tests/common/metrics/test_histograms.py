import math

import numpy as np
import pytest
import torch

from salus.common.metrics.histograms import one_hot_bins, quantile

EDGES = (0.0, 1.0, 2.0, 4.0)


def test_every_counted_value_is_in_one_bin() -> None:
    values = torch.tensor([-1.0, 0.0, 0.99, 1.0, 3.0, 4.0, math.inf, math.nan, 0.5])
    counted = torch.tensor([True] * 8 + [False])
    assert one_hot_bins(values, EDGES, counted).argmax(1).tolist()[:8] == [0, 0, 0, 1, 2, 2, 2, 2]
    assert one_hot_bins(values, EDGES, counted).sum(1).tolist() == [1.0] * 8 + [0.0]


def test_quantiles_are_linear_within_a_bin() -> None:
    counts = np.array([2.0, 0.0, 2.0])
    assert quantile(counts, EDGES, 0.25) == pytest.approx(0.5)
    assert quantile(counts, EDGES, 0.5) == pytest.approx(1.0)
    assert quantile(counts, EDGES, 0.75) == pytest.approx(3.0)
    assert quantile(counts, EDGES, 1.0) == pytest.approx(4.0)
    assert quantile(np.zeros(3), EDGES, 0.5) is None
