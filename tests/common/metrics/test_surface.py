"""Surface distances against a slow loop over pairs of voxels and MONAI's metrics."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salus.common.metrics.surface import HAUSDORFF_EDGES_MM, Mask, Surface, compare


def balls(shift: tuple[float, ...], radius: float = 4.0, side: int = 16) -> tuple[Mask, Mask]:
    grid = np.stack(np.meshgrid(*[np.arange(side)] * len(shift), indexing="ij"), axis=-1)
    centre = np.full(len(shift), side / 2)
    return (
        np.linalg.norm(grid - centre - np.array(shift), axis=-1) < radius,
        np.linalg.norm(grid - centre, axis=-1) < radius + 0.5,
    )


def slow(found: Mask, true: Mask, spacing: tuple[float, ...], tolerance: float) -> tuple[float, float]:
    def edge(mask: Mask) -> list[tuple[int, ...]]:
        inside = {tuple(int(i) for i in place) for place in np.argwhere(mask)}
        steps = [
            tuple(sign * int(a == axis) for a in range(mask.ndim)) for axis in range(mask.ndim) for sign in (1, -1)
        ]
        return [p for p in inside if any(tuple(np.add(p, s)) not in inside for s in steps)]

    def nearest(here: list[tuple[int, ...]], there: list[tuple[int, ...]]) -> list[float]:
        return [min(float(np.linalg.norm(np.subtract(p, q) * np.array(spacing))) for q in there) for p in here]

    a, b = edge(found), edge(true)
    ways = nearest(a, b), nearest(b, a)
    near = sum(d <= tolerance for d in itertools.chain(*ways))
    return near / (len(a) + len(b)), max(float(np.quantile(way, 0.95)) for way in ways)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 1.5)])
@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (2.0, 1.0, 0.0), (-4.0, 3.0, 2.0)])
def test_distances_are_those_of_a_loop_over_pairs(shift: tuple[float, ...], spacing: tuple[float, ...]) -> None:
    found, true = balls(shift)
    assert compare(found, true, np.array(spacing), 1.5) == pytest.approx(slow(found, true, spacing, 1.5))


def test_masks_at_the_border_of_an_image_have_an_edge_there() -> None:
    found, true = np.zeros((6, 6), bool), np.zeros((6, 6), bool)
    found[:3], true[:4] = True, True
    assert compare(found, true, np.ones(2), 0.5) == pytest.approx(slow(found, true, (1.0, 1.0), 0.5))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 0.5)])
def test_distances_agree_with_monai(spacing: tuple[float, ...]) -> None:
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    found, true = balls((2.0, 1.0, -1.0))
    agreement, distance = compare(found, true, np.array(spacing), 1.0)
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (found, true)]
    assert distance == pytest.approx(
        float(compute_hausdorff_distance(*tensors, percentile=95, include_background=True, spacing=spacing)), rel=1e-5
    )
    assert agreement == pytest.approx(
        float(compute_surface_dice(*tensors, [1.0], include_background=True, spacing=spacing)), rel=1e-5
    )


def test_metrics_come_from_histograms_of_cases() -> None:
    surface = Surface(("a",), tolerance_mm=1.0)
    pairs = [balls((0.0, 0.0, 0.0)), balls((2.0, 0.0, 0.0)), balls((3.0, 0.0, 0.0))]
    found, true = (torch.from_numpy(np.stack(masks))[:, None] for masks in zip(*pairs, strict=True))
    spacing = torch.ones(3, 3)
    metrics = surface.metrics(surface.rows(found, true, spacing).sum(0).numpy())
    each = [compare(f, t, np.ones(3), 1.0) for f, t in pairs]
    assert metrics["surface_dice_a"] == pytest.approx(np.mean([agreement for agreement, _ in each]))
    middle = sorted(distance for _, distance in each)[1]
    place = int(np.searchsorted(HAUSDORFF_EDGES_MM, middle, side="right"))
    assert HAUSDORFF_EDGES_MM[place - 1] <= metrics["hausdorff95_mm_a"] <= HAUSDORFF_EDGES_MM[place]


def test_a_missed_structure_is_infinitely_far_and_an_absent_one_is_not_counted() -> None:
    surface = Surface(("a",), tolerance_mm=1.0)
    mask = torch.from_numpy(balls((0.0, 0.0))[1])[None, None]
    nothing, spacing = torch.zeros_like(mask), torch.ones(1, 2)
    missed = surface.rows(nothing, mask, spacing).numpy()
    assert surface.metrics(missed.sum(0))["surface_dice_a"] == 0.0
    assert missed[0, -1] == 1.0
    for found in (nothing, mask):
        assert not surface.rows(found, nothing, spacing).any()


def test_without_cases_there_are_no_metrics() -> None:
    surface = Surface(("a",), tolerance_mm=1.0)
    assert surface.metrics(np.zeros(surface.size)) == {}


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_rows_lie_between_0_and_1_for_any_masks_and_spacing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    found, true = (torch.rand(2, 2, 5, 4, generator=generator) < share for share in (0.3, 0.2))
    spacing = torch.randn(2, 2, generator=generator)  # also such that no image has
    surface = Surface(("a", "b"), tolerance_mm=2.0)
    rows = surface.rows(found, true, spacing)
    assert rows.shape == (2, surface.size)
    assert bool(((rows >= 0) & (rows <= 1)).all())
