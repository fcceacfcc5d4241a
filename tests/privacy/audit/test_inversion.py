"""Gradient inversion on small networks: what one gradient shows, and what a sum and noise leave."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from salus.common.batch import Batch
from salus.privacy.audit.inversion import IMAGE, Search, gradient, invert, read_linear, signal_to_noise_db

SHAPE = (1, 6, 6)


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    first = nn.Linear(36, 24) if kind == "linear" else nn.Conv2d(1, 8, 3, padding=1)
    layers = [nn.Flatten(), first] if kind == "linear" else [first, nn.Sigmoid(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Sigmoid(), nn.Linear(24 if kind == "linear" else 288, 2))


def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(model(batch[IMAGE]), batch["label"], reduction="none")


def images(count: int) -> Batch:
    drawn = torch.Generator().manual_seed(1)
    smooth = F.interpolate(torch.rand(count, 1, 3, 3, generator=drawn), size=(6, 6), mode="bilinear")
    return Batch({IMAGE: smooth * 2 - 1, "label": torch.arange(count) % 2})


def unknown(batch: Batch) -> Batch:
    return Batch({**batch.fields, IMAGE: torch.zeros_like(batch[IMAGE])})


def found(kind: str, count: int, noise: float = 0.0, iterations: int = 150) -> tuple[float, float]:
    """Return the likeness of the nearest reconstruction to the first image, and of the usual image, in dB."""
    model, batch = network(kind), images(count)
    seen = gradient(model, loss, batch)
    seen = seen + noise * seen.norm() / seen.numel() ** 0.5 * torch.randn(
        seen.shape, generator=torch.Generator().manual_seed(2)
    )
    usual = torch.zeros(SHAPE)
    result = invert(model, loss, unknown(batch), seen, Search(iterations, -1.0, 1.0, usual))
    assert result.shape == batch[IMAGE].shape
    assert result.abs().max() <= 1
    truth = batch[IMAGE][0]
    return max(signal_to_noise_db(one, truth, 2.0) for one in result), signal_to_noise_db(usual, truth, 2.0)


def test_a_convolutional_network_s_gradient_shows_its_image_and_noise_hides_it() -> None:
    likeness, usual = found("convolution", 1)
    assert likeness > usual + 6
    hidden, _ = found("convolution", 1, noise=10.0)
    assert hidden < usual + 1


def test_a_first_linear_layer_shows_one_image_exactly_and_of_five_a_mean() -> None:
    assert found("linear", 1, iterations=2)[0] > 60
    model, batch = network("linear"), images(5)
    rows = read_linear(model, gradient(model, loss, batch), 36)
    assert len(rows) == 24
    assert found("linear", 5, iterations=20)[0] < 30
    assert len(read_linear(network("convolution"), torch.zeros(3), 36)) == 0


@pytest.mark.parametrize("kind", ["convolution", "linear"])
@pytest.mark.parametrize("seen", [0.0, float("nan")])
def test_an_update_of_nothing_or_of_nan_ends_the_search(seen: float, kind: str) -> None:
    model, batch = network(kind), images(1)
    update = torch.full_like(gradient(model, loss, batch), seen)
    assert invert(model, loss, unknown(batch), update, Search(3, -1.0, 1.0, torch.zeros(SHAPE))).isfinite().all()


def test_a_picture_without_numbers_is_like_nothing() -> None:
    assert signal_to_noise_db(torch.full(SHAPE, float("nan")), torch.zeros(SHAPE), 2.0) == 0
    assert signal_to_noise_db(torch.zeros(SHAPE), torch.zeros(SHAPE), 2.0) == 100
