"""Padding is no measurement: a padded border changes no statistic of intensities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.common.sums.builders import job_of

from salus.common.sums import sums_of
from salus.common.sums.base import Measured
from salus.common.sums.features import image_features
from salus.common.sums.nyul import percentiles_of, to_standard_scale

MODALITIES = 'modalities = ["CT"]\nbins = 16'


@st.composite
def images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an image, the same with a border of some value, and where the border is."""
    sides = draw(st.lists(st.integers(1, 6), min_size=2, max_size=3))
    widths = [(0, 0), *(draw(st.tuples(st.integers(0, 3), st.integers(0, 3))) for _ in sides)]
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = random.integers(0, 1000, (draw(st.integers(1, 2)), *sides)).astype(np.float32)
    fill = draw(st.sampled_from([float(values.min()), -2000.0, 0.0, 5000.0]))
    padding = np.pad(np.zeros(values.shape, bool), widths, constant_values=True)
    return values, np.pad(values, widths, constant_values=fill), padding


@settings(max_examples=150, deadline=None)
@given(images())
def test_a_padded_border_changes_no_statistic(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    values, bordered, padding = drawn
    bare = Measured(0, values, (1.0, 1.0), "CT", "GE")
    padded = Measured(0, bordered, (1.0, 1.0), "CT", "GE", padding=padding)
    for kind, statistics in (("quantiles", "bins = 32"), ("nyul", ""), ("combat", ""), ("summary", MODALITIES)):
        sums = sums_of(job_of(kind, statistics=statistics))
        one, other = sums.row(1, [], bare), sums.row(1, [], padded)
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            size = 32 if kind == "summary" else len(one)  # before them, the number of rows that the file has
            np.testing.assert_allclose(one[-size:], other[-size:], rtol=1e-9, atol=1e-12, err_msg=kind)
    features = image_features(values, 0, 1000), image_features(bordered, 0, 1000, padding)
    np.testing.assert_allclose(*features, rtol=1e-9, atol=1e-12)
    landmarks = np.linspace(0, 1, 11)
    inner = to_standard_scale(bordered, landmarks, padding)[~padding]
    np.testing.assert_array_equal(inner, to_standard_scale(values, landmarks).ravel())


def test_padding_that_is_counted_would_change_them() -> None:
    values = np.arange(100, dtype=np.float32).reshape(1, 10, 10)
    bordered = np.pad(values, [(0, 0), (9, 9), (9, 9)])
    padding = bordered > 99
    assert not padding.any()
    assert not np.allclose(percentiles_of(bordered), percentiles_of(values))  # type: ignore[arg-type]
    assert not np.allclose(image_features(bordered, 0, 100, padding), image_features(values, 0, 100))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["quantiles", "nyul", "combat", "summary"])
def test_an_image_of_nothing_but_padding_measures_nothing(kind: str) -> None:
    sums = sums_of(job_of(kind, statistics=MODALITIES if kind == "summary" else ""))
    values = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    row = sums.row(1, [], Measured(0, values, modality="CT", padding=np.ones(values.shape, bool)))
    assert row is None if kind != "summary" else not row[-32:].any()  # type: ignore[index]


def test_a_gradient_ends_at_padding_inside_an_image() -> None:
    random = np.random.default_rng(3)
    values = random.random((1, 7, 9)).astype(np.float32)
    padding = random.random(values.shape) < 0.4
    expected = []
    for row, column in zip(*np.nonzero(~padding[0]), strict=True):
        slopes = []
        for step in ((1, 0), (0, 1)):
            near = []
            for sign in (-1, 1):
                r, c = row + sign * step[0], column + sign * step[1]
                known = 0 <= r < 7 and 0 <= c < 9 and not padding[0, r, c]
                near.append(float(values[0, r, c]) if known else None)
            here, (before, after) = float(values[0, row, column]), near
            steps = [*([] if before is None else [here - before]), *([] if after is None else [after - here])]
            slopes.append(sum(steps) / max(len(steps), 1))
        expected.append(np.hypot(*slopes))
    found = image_features(values, 0, 1, padding)
    assert found is not None
    assert found[-1] == pytest.approx(np.mean(expected))
