"""The imprint attack on plain numbers: images that are alone in their range of brightness are read exactly."""

import numpy as np
import torch
import torch.nn.functional as F

from salus.privacy.audit.imprint import combination, crafted, readable, recovered


def update(images: np.ndarray, labels: np.ndarray, parameters: np.ndarray, rows: int) -> np.ndarray:
    """Return minus the gradient of the mean loss of a linear classifier, as a site's step with all its images gives it."""
    features = images.shape[1]
    weight = torch.tensor(
        parameters[: rows * features].reshape(rows, features), dtype=torch.float32, requires_grad=True
    )
    bias = torch.tensor(parameters[rows * features :], dtype=torch.float32, requires_grad=True)
    given = torch.tensor(images, dtype=torch.float32)
    loss = F.cross_entropy(F.linear(given, weight, bias), torch.tensor(labels))
    found = torch.autograd.grad(loss, [weight, bias])
    return -np.concatenate([part.double().numpy().ravel() for part in found])


def test_images_alone_in_their_range_are_read_from_a_sum_of_five_sites() -> None:
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, size=(160, 100)) * 0.5 + rng.normal(0, 0.2, size=(160, 1))
    labels = rng.integers(0, 2, 160)
    bright = images @ combination(100)
    parameters = crafted(2, 256, 100, float(bright.mean()), float(bright.std()))
    total = sum(update(images[part], labels[part], parameters, 258) for part in np.split(np.arange(160), 5))
    assert isinstance(total, np.ndarray)
    found = readable(total, 2, 256, 100)
    assert 0.35 < recovered(found, images, 0.05) / 160 < 0.75  # exp(-160 / 256) = 0.54 of balls are alone in their urn
    honest = update(images, labels, np.zeros(258 * 101), 258)
    assert recovered(readable(honest, 2, 256, 100), images, 0.05) == 0
    noise = total + rng.normal(0, np.abs(total).max(), total.shape)
    assert recovered(readable(noise, 2, 256, 100), images, 0.05) == 0


def test_an_update_of_zeros_shows_nothing() -> None:
    assert recovered(readable(np.zeros(258 * 101), 2, 256, 100), np.ones((3, 100)), 0.05) == 0
