"""Checks of maps: known curves, likeness, and the pointing game."""

import numpy as np
import pytest
import torch
from tests.client.explaining.worlds import Linear, linear_row

from salus.client.explaining.sanity import area, curves, hit, ranks, similarity, smoothed
from salus.client.explaining.subject import Subject, per_column


def test_the_curve_of_a_map_that_marks_the_only_pixel_that_matters() -> None:
    inputs = torch.zeros(1, 1, 10, 10)
    inputs[0, 0, 3, 4] = 1.0
    subject = Subject(Linear(inputs[0] * 100.0), inputs, inputs * 0, inputs)
    found = curves(subject, inputs[0, 0].numpy())
    assert found.deletion_curve[0] == pytest.approx(1.0)
    assert found.deletion_curve[1:] == pytest.approx([0.5] * 20)
    assert found.insertion_curve == pytest.approx([0.5] + [1.0] * 20)
    assert found.deletion == pytest.approx(0.5125)
    assert curves(subject, -inputs[0, 0].numpy()).deletion > 0.97


def test_the_features_of_a_column_are_changed_together() -> None:
    subject = linear_row()
    column = np.array([0.0, 0.0, 0.0, 0.0, 1.0], np.float32)
    assert ranks(column, subject).tolist() == [[1, 2, 3, 4, 0, 0]]
    assert len(curves(subject, column).deletion_curve) == 6
    assert per_column(torch.ones(6).numpy(), subject.groups).tolist() == [1, 1, 1, 1, 2]


def test_the_likeness_of_maps_ignores_signs_and_scales() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 30, 30)).astype(np.float32)
    assert similarity(one, -3 * one) == pytest.approx(1.0)
    assert similarity(one, other) < 0.1
    assert similarity(one, np.ones_like(one)) == 0.0
    assert similarity(one * np.nan, one) == 0.0


def test_the_pointing_game() -> None:
    region = np.zeros((4, 4), bool)
    region[1, 2] = True
    found = np.zeros((4, 4), np.float32)
    assert hit(found, region) is False  # it points nowhere, which is no reason to leave it out of the mean
    found[1, 2] = 1
    assert hit(found, region) is True
    found[0, 0] = 2
    assert hit(found, region) is False
    assert hit(found, region & False) is None
    assert hit(found, region | True) is None


def test_the_area_and_smoothing() -> None:
    assert area([1.0, 0.0]) == 0.5
    assert 0.999 < area([1.0] * 7) <= 1.0
    values = np.zeros((32, 32), np.float32)
    values[16, 16] = 1
    assert float(smoothed(values).sum()) == pytest.approx(1.0, abs=1e-3)
    assert smoothed(values)[16, 16] < 0.5
    assert smoothed(values[0]) is not None
