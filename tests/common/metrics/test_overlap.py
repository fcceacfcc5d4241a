"""Overlap metrics against a slow loop and MONAI's metrics."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salus.common.metrics.overlap import Overlap

CLASSES = ("liver", "tumour")


def masks(seed: int = 0, items: int = 6, shape: tuple[int, ...] = (5, 4, 6)) -> tuple[torch.Tensor, torch.Tensor]:
    """Random masks; the last item's tumour is absent, and that of the one before it is not predicted."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.rand(items, 2, *shape, generator=generator) < 0.5
    true = torch.rand(items, 2, *shape, generator=generator) < 0.4
    true[-1, 1] = False
    found[-2, 1] = False
    return found, true


def slow(found: torch.Tensor, true: torch.Tensor) -> dict[str, float]:
    """One structure's metrics by counting voxels."""
    rows = []
    for f, t in zip(found.flatten(1).tolist(), true.flatten(1).tolist(), strict=True):
        tp = sum(a and b for a, b in zip(f, t, strict=True))
        fp, fn = sum(f) - tp, sum(t) - tp
        if tp + fn:
            rows.append((tp, fp, fn))
    dice = [2 * tp / (2 * tp + fp + fn) for tp, fp, fn in rows]
    precision = [tp / (tp + fp) for tp, fp, fn in rows if tp + fp]
    volume = [(fp - fn) / max(tp + fp, tp + fn) for tp, fp, fn in rows]
    return {
        "dice": float(np.mean(dice)),
        "dice_sd": float(np.std(dice)),
        "iou": float(np.mean([tp / (tp + fp + fn) for tp, fp, fn in rows])),
        "sensitivity": float(np.mean([tp / (tp + fn) for tp, fp, fn in rows])),
        "precision": float(np.mean(precision)),
        "volume_error": float(np.mean(np.abs(volume))),
        "volume_bias": float(np.mean(volume)),
    }


def test_metrics_are_those_of_a_loop_over_voxels() -> None:
    found, true = masks()
    overlap = Overlap(CLASSES)
    metrics = overlap.metrics(overlap.rows(found, true).sum(0).numpy())
    for place, name in enumerate(CLASSES):
        for key, value in slow(found[:, place], true[:, place]).items():
            assert metrics[f"{key}_{name}"] == pytest.approx(value), key
    assert metrics["dice_mean"] == pytest.approx((metrics["dice_liver"] + metrics["dice_tumour"]) / 2)
    assert metrics["cases_tumour"] == 5
    assert metrics["empty_cases_tumour"] == 1
    assert metrics["missed_tumour"] == pytest.approx(1 / 5)
    assert metrics["false_alarm_tumour"] == 1.0
    assert "false_alarm_liver" not in metrics


def test_dice_and_iou_agree_with_monai() -> None:
    from monai.metrics import compute_dice, compute_iou

    found, true = masks(1)
    overlap = Overlap(CLASSES)
    metrics = overlap.metrics(overlap.rows(found, true).sum(0).numpy())
    for key, compute in (("dice", compute_dice), ("iou", compute_iou)):
        expected = compute(found.float(), true.float())  # NaN where the true mask is empty
        assert metrics[f"{key}_liver"] == pytest.approx(float(expected[:, 0].nanmean()), rel=1e-5)
        assert metrics[f"{key}_tumour"] == pytest.approx(float(expected[:, 1].nanmean()), rel=1e-5)


def test_the_median_comes_from_the_histogram_of_cases() -> None:
    true = torch.zeros(3, 1, 100, dtype=torch.bool)
    true[:, :, :50] = True
    found = torch.zeros_like(true)
    found[0, :, :50] = True  # Dice 1
    found[1, :, :30] = True  # Dice 0.75
    found[2, :, 50:60] = True  # Dice 0
    overlap = Overlap(("a",))
    metrics = overlap.metrics(overlap.rows(found, true).sum(0).numpy())
    assert 0.75 <= metrics["dice_median_a"] < 0.8  # the width of a bin


@given(seed=st.integers(0, 10**6), flat=st.booleans())
def test_rows_add_up_and_lie_between_0_and_1(seed: int, flat: bool) -> None:
    found, true = masks(seed, shape=(6, 7) if flat else (3, 2, 2))
    overlap = Overlap(CLASSES)
    rows = overlap.rows(found, true)
    assert rows.shape == (6, overlap.size)
    assert rows.dtype == torch.float64
    assert bool(((rows >= 0) & (rows <= 1)).all())
    each = torch.cat([overlap.rows(found[i : i + 1], true[i : i + 1]) for i in range(6)])
    assert torch.equal(rows, each)


def test_without_cases_there_are_no_metrics_but_counts() -> None:
    overlap = Overlap(("a",))
    assert overlap.metrics(np.zeros(overlap.size)) == {"cases_a": 0, "empty_cases_a": 0}
    nothing = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    metrics = overlap.metrics(overlap.rows(nothing, nothing).sum(0).numpy())
    assert metrics == {"cases_a": 0, "empty_cases_a": 2, "false_alarm_a": 0.0}
