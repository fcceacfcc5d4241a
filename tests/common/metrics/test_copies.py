"""Copies among generated images are found, and new, blurred or equally distributed images are not taken for copies."""

import pytest
import torch

from salus.common.metrics.copies import averaged, copying


def images(count: int, seed: int, shape: tuple[int, ...] = (1, 8, 8)) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 40, 40), (1, 6, 6, 6)])
def test_copies_are_found_and_new_images_are_not(shape: tuple[int, ...]) -> None:
    training, held_out, new = images(120, 1, shape), images(60, 2, shape), images(100, 3, shape)
    honest = copying(new, training, held_out)
    assert honest["expected"] == pytest.approx(2 / 3)
    assert abs(honest["standard_errors"]) < 3
    assert honest["near"] < 0.3
    half = torch.cat([training[:50] + 0.01 * images(50, 4, shape), new[:50]])
    copied = copying(half, training, held_out)
    assert copied["standard_errors"] > 3
    assert 0.5 <= copied["near"] < 0.7
    assert copying(training, training, held_out)["nearest_is_training"] == 1.0


def test_blurred_images_are_near_to_all_real_ones_and_still_no_copies() -> None:
    blurred = copying(0.05 * images(200, 5), images(150, 1), images(150, 2))
    assert blurred["near"] > 0.5, "this number alone would accuse them"
    assert blurred["standard_errors"] < 3


def test_few_copies_among_many_images_are_not_seen_by_the_mean() -> None:
    """What the check cannot do: one copy in two hundred."""
    one = torch.cat([images(1, 1), images(199, 3)])
    assert copying(one, images(100, 1), images(100, 2))["standard_errors"] < 3


def test_averaging_twice_is_averaging_once() -> None:
    images = torch.rand(2, 1, 70, 45)
    small = averaged(images)
    assert small.shape == (2, 1, 32, 32)
    assert torch.equal(averaged(small), small)
    assert small.mean() == pytest.approx(float(images.mean()), abs=0.02)
