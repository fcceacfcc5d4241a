"""Which structures are imprint layers; the models that Salus ships, and the usual variants."""

import pytest
import torch
from tests.builders import tiny_job
from torch import nn

from salus.common.models import build_model
from salus.privacy.imprint import imprint_layers, imprint_layers_of_samples


def layers(model: nn.Module, *shape: int) -> list[str]:
    return imprint_layers(model, lambda network: network(torch.zeros(2, *shape)), 2)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 100)),
        nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 2)),
        nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 9)),  # thumbnails are images, too
        nn.Sequential(nn.GroupNorm(1, 1), nn.Conv2d(1, 50, 8), nn.Flatten(), nn.Linear(50, 2)),  # one place: linear
        nn.Sequential(nn.Conv2d(1, 50, 6), nn.Flatten(), nn.Linear(450, 2)),  # nine places
    ],
)
def test_wide_layers_on_the_raw_input_are_found(model: nn.Module) -> None:
    assert layers(model, 1, 8, 8)


class Sideways(nn.Module):
    """A convolution for show and a wide layer on the raw input beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.side = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(64, 30)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.front(x).mean() + self.side(x.flatten(1))


def test_a_layer_beside_a_convolution_is_found() -> None:
    assert layers(Sideways(), 1, 8, 8) == ["side (30 outputs)"]


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 2)),
        nn.Sequential(nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 500)),
        nn.Sequential(nn.Conv2d(1, 64, 2, stride=2), nn.Flatten(), nn.Linear(64 * 16, 500)),  # patches
    ],
)
def test_narrow_or_shared_layers_are_not(model: nn.Module) -> None:
    assert layers(model, 1, 8, 8) == []


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cnn", (28, 28)),
        ("resnet18", (64, 64)),
        ("densenet121", (64, 64)),
        ("cnn", (16, 16, 16)),
        ("logistic", (28, 28)),
    ],
)
def test_the_models_that_salus_ships_pass_and_cost_nothing(name: str, shape: tuple[int, ...]) -> None:
    task = tiny_job().task.changed(model=name, shape=shape)
    with torch.device("meta"):
        model = build_model(task, 0)
        assert imprint_layers(model, lambda network: network(torch.empty(2, 1, *shape)), 2) == []
    assert all(parameter.requires_grad for parameter in model.parameters())


class WithPlaces(nn.Module):
    """Tokens with a table of places, and a layer on noise and one on a first state, before one that may read the samples."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.places, self.token = nn.Embedding(20, 8), nn.Linear(4, 8)
        self.noise, self.state, self.reads = nn.Linear(3, 40), nn.Linear(5, 40), reads
        self.raw = nn.Linear(80, 40)

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        found = self.token(x) + self.places(torch.arange(20).expand(len(x), 20))
        other = self.noise(noise) + self.state(torch.zeros(len(x), 5))
        return found.sum() + other.sum() + (self.raw(x.flatten(1)).sum() if self.reads else 0)


@pytest.mark.parametrize("reads", [False, True])
def test_places_noise_and_first_states_reveal_no_sample(reads: bool) -> None:
    x, y, noise = torch.randn(4, 20, 4), torch.randn(4, 20, 4), torch.randn(4, 3)
    model = WithPlaces(reads)
    assert len(imprint_layers(model, lambda network: network(x, noise), 4)) == 3 + reads
    found = imprint_layers_of_samples(model, lambda network: network(x, noise), lambda network: network(y, noise), 4)
    assert found == ["raw (40 outputs)"] * reads
    words = nn.Sequential(nn.Embedding(64, 4), nn.Flatten(), nn.Linear(20, 2))
    a, b = torch.randint(0, 64, (2, 4, 5))
    assert imprint_layers_of_samples(words, lambda network: network(a), lambda network: network(b), 4)


class ByName(nn.Module):
    """A wide layer that gets the raw input by keyword, and one that gets features by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.raw, self.later = nn.Conv2d(1, 4, 3), nn.Linear(64, 30), nn.Linear(144, 30)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        later = self.later(input=self.front(x).flatten(1))
        return self.raw(input=x.flatten(1)) + later


def test_inputs_by_keyword_count_as_others_do() -> None:
    assert layers(ByName(), 1, 8, 8) == ["raw (30 outputs)"]
    x, y = torch.randn(2, 2, 1, 8, 8)
    found = imprint_layers_of_samples(ByName(), lambda network: network(x), lambda network: network(y), 2)
    assert found == ["raw (30 outputs)"]
