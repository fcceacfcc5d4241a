"""Grad-CAM: the formula of the paper by hand, the choice of the layer, and what it refuses."""

import pytest
import torch
from tests.client.explaining.worlds import linear_row
from torch import nn

from salus.client.explaining.methods.grad_cam import GradCam
from salus.client.explaining.scores import ClassScore
from salus.client.explaining.subject import Subject


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2),
    )  # fmt: skip


def subject(model: nn.Module, side: int = 16) -> Subject:
    torch.manual_seed(1)
    inputs = torch.randn(1, 1, side, side)
    return Subject(ClassScore(model, 1, exclusive=True), inputs, inputs * 0, inputs)


def test_the_map_is_that_of_the_paper() -> None:
    model = network()
    own = subject(model)
    features = model[:5](own.inputs).detach().requires_grad_(True)
    outputs = model[5:](features)
    (outputs[:, 1] - outputs[:, 0]).sum().backward()
    assert features.grad is not None
    weights = features.grad.mean(dim=(2, 3), keepdim=True)
    expected = torch.relu((weights * features).sum(dim=1, keepdim=True))
    expected = nn.functional.interpolate(expected, size=(16, 16), mode="bilinear", align_corners=False)[0, 0]
    found = GradCam(GradCam.Settings(layer="4"))(own)
    assert torch.allclose(found, expected.detach(), atol=1e-5)
    assert float(found.max()) > 0
    assert torch.equal(GradCam(GradCam.Settings())(own), found)  # the coarsest grid with eight places


def test_no_hooks_stay_in_the_network() -> None:
    model = network()
    GradCam(GradCam.Settings())(subject(model))
    assert not any(layer._forward_hooks or layer._backward_hooks for layer in model.modules())


@pytest.mark.parametrize(
    ("model", "layer", "reason"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(256, 2)), "", "keeps the places"),
        (network(), "99", "'99'"),
    ],
)
def test_networks_without_places_are_named(model: nn.Module, layer: str, reason: str) -> None:
    assert reason in GradCam(GradCam.Settings(layer=layer)).unfit(subject(model))


def test_rows_have_no_places() -> None:
    assert "columns" in GradCam(GradCam.Settings()).unfit(linear_row())
