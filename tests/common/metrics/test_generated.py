"""Scores of generated images: the distance against its closed forms and an oracle, the features, and the classifier."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salus.common.metrics.generated import (
    FEATURES,
    SCALE,
    LeastSquares,
    balanced,
    fixed_features,
    frechet_distance,
    moments,
)


def small(seed: int, items: int = 200, shift: float = 0.0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    mixed = torch.randn(items, FEATURES, generator=random) @ torch.randn(FEATURES, FEATURES, generator=random) / 8
    return torch.sigmoid(mixed + shift).double()


def mean_moments(features: torch.Tensor) -> np.ndarray:
    return moments(features).mean(dim=0).numpy()


def oracle(one: torch.Tensor, two: torch.Tensor) -> float:
    """Return the distance from the eigenvalues of the product of the covariances, by numpy's own mean and covariance."""
    first, second = np.cov(one.T.numpy(), bias=True), np.cov(two.T.numpy(), bias=True)
    shared = np.sqrt(np.abs(np.linalg.eigvals(first @ second))).sum()
    apart = ((one.mean(0) - two.mean(0)) ** 2).sum().item()
    return SCALE * (apart + np.trace(first) + np.trace(second) - 2 * shared)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(-1, 1))
def test_the_distance_agrees_with_an_oracle_on_the_images_themselves(seed: int, shift: float) -> None:
    one, two = small(seed), small(seed + 1, 150, shift)
    found = frechet_distance(mean_moments(one), mean_moments(two))
    assert found == pytest.approx(oracle(one, two), rel=1e-6, abs=1e-6)
    assert frechet_distance(mean_moments(two), mean_moments(one)) == pytest.approx(found, rel=1e-6, abs=1e-6)
    assert frechet_distance(mean_moments(one), mean_moments(one)) < 1e-6
    assert found > 1e-3


def test_moments_of_several_sites_add_up() -> None:
    one, two = small(1), small(2)
    together = mean_moments(torch.cat([one, two]))
    assert np.allclose(together, (moments(one).sum(0) + moments(two).sum(0)).numpy() / 400)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 40), (1, 6, 8, 7)])
def test_features_are_fixed_and_within_their_bounds_whatever_the_image(shape: tuple[int, ...]) -> None:
    of = fixed_features(shape[0], len(shape) - 1)
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    images[1], images[2], images[3] = float("nan"), float("inf"), -1e30
    torch.manual_seed(5)
    found = of.small(of.wide(images))
    assert found.shape == (4, FEATURES)
    assert bool(((moments(found) >= 0) & (moments(found) <= 1)).all())
    fresh = type(of)(shape[0], len(shape) - 1)  # whatever the state of torch's own generator
    assert torch.equal(fresh.small(fresh.wide(images)), found)


@pytest.mark.parametrize("items", [40, 600])
def test_the_classifier_learns_what_can_be_told_apart_and_nothing_else(items: int) -> None:
    random = torch.Generator().manual_seed(0)
    labels = balanced(3, items)
    wide = torch.randn(len(labels), 100, generator=random)
    told = wide + 2.0 * torch.randn(3, 100, generator=random)[labels]
    fresh = torch.randn(300, 100, generator=random)
    classifier = LeastSquares(told, labels, 3)
    assert float((classifier.logits(told).argmax(1) == labels).double().mean()) > 0.95
    chance = (LeastSquares(wide, labels, 3).logits(fresh).argmax(1) == balanced(3, 300)).double().mean()
    assert 0.2 < float(chance) < 0.47


def test_labels_are_balanced() -> None:
    assert balanced(3, 7).tolist() == [0, 1, 2] * 3
