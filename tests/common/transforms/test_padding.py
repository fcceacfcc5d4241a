"""Padding is shown, but counts in nothing that a transform computes from intensities, wherever a step before has moved it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.common.transforms.worlds import make

from salus.common.examples import PADDING, Example

LANDMARKS = tuple(k / 10 for k in range(11))
COMPUTING = [
    ("percentiles", {"low": 5.0, "high": 95.0}),
    ("percentiles", {"nonzero": True}),
    ("normalize", {}),
    ("normalize", {"channel_wise": False, "limit": 2.0}),
    ("nyul", {"landmarks": LANDMARKS}),
    ("zscore", {"groups": (("ALL", 300.0, 100.0),)}),
    ("window", {"low": 100.0, "high": 600.0}),
]


def bare(values: np.ndarray, **fields: np.ndarray) -> Example:
    named = {"image": values.astype(np.float32), **fields}
    return Example(named, frozenset(named), np.eye(4))


def bordered(values: np.ndarray, width: int, before: int = 0) -> Example:
    """Return an image with a border that shows its darkest value."""
    widths = [(0, 0)] + [(before, width)] * (values.ndim - 1)
    padding = np.pad(np.zeros(values.shape, np.uint8), widths, constant_values=1)
    return bare(np.pad(values, widths, constant_values=values.min()), **{PADDING: padding})


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 3), st.integers(0, 3), st.integers(2, 3), st.integers(1, 2))
@pytest.mark.parametrize(("kind", "own"), COMPUTING)
def test_a_padded_border_changes_no_voxel(
    kind: str, own: dict[str, Any], seed: int, before: int, after: int, axes: int, channels: int
) -> None:
    values = np.random.default_rng(seed).integers(1, 900, (channels, *(5, 4, 3)[:axes])).astype(np.float32)
    step, example = make(kind, **own), bordered(values, after, before)
    result, inner = step(example, None)["image"], example[PADDING] == 0
    expected = step(bare(values), None)["image"]
    np.testing.assert_allclose(result[inner], expected.ravel(), rtol=1e-6, atol=1e-6)
    for channel, measured in zip(result, inner, strict=True):
        assert channel[~measured].max(initial=-np.inf) <= channel[measured].min() + 1e-6  # shown as the darkest


def test_padding_that_is_counted_would_change_them() -> None:
    values = np.random.default_rng(1).integers(1, 900, (1, 9, 9)).astype(np.float32)
    example = bordered(values, 9)
    for kind, own in COMPUTING[:5]:
        counted = make(kind, **own)(bare(example["image"]), None)["image"]
        assert not np.allclose(counted, make(kind, **own)(example, None)["image"], atol=1e-3), kind


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("flip", {"probability": 1.0}),
        ("center-crop", {"size": (12, 12)}),
        ("resize", {"size": (18, 18)}),
        ("affine", {"probability": 1.0}),
        ("elastic", {"probability": 1.0}),
    ],
)
def test_padding_is_known_after_the_grid_changed(kind: str, own: dict[str, Any]) -> None:
    values = np.full((1, 9, 9), 500, np.float32)
    values[0, 0, 0] = 10
    example = make(kind, **own)(bordered(values, 9), np.random.default_rng(2))
    padding = example.padding_of("image")
    assert padding is not None
    assert padding.shape == example["image"].shape
    assert 0 < padding.mean() < 1
    assert np.median(example["image"][~padding]) == 500  # more than half of what is shown is padding


def test_the_foreground_and_the_mean_are_those_of_measurements() -> None:
    example = bordered(np.full((1, 4, 4), 700.0), 6, 2)
    assert make("crop-foreground")(example, None)["image"].shape == (1, 4, 4)
    values = np.arange(100, 116, dtype=np.float32).reshape(1, 4, 4)
    changed = make("cutout", probability=1.0, share=0.5)(bordered(values, 6), np.random.default_rng(1))["image"]
    assert values.mean() in changed


def test_features_are_those_of_measurements() -> None:
    from salus.common.sums.features import image_features

    values = np.random.default_rng(4).integers(1, 900, (1, 6, 5)).astype(np.float32)
    example = bordered(values, 3)
    found = image_features(example["image"], 0, 1000, example.padding_of("image"))
    np.testing.assert_allclose(found, image_features(values, 0, 1000), rtol=1e-9)
    assert not np.allclose(image_features(example["image"], 0, 1000), found)  # type: ignore[arg-type]


def test_an_image_with_channels_of_its_own_has_the_common_padding() -> None:
    example = bordered(np.ones((2, 3, 3)), 2)
    example = Example({**example.fields, "other": np.ones((1, 5, 5), np.float32)}, example.spatial | {"other"})
    padding = example.padding_of("other")
    assert padding is not None
    assert padding.shape == (1, 5, 5)
    assert padding.sum() == 16
