"""Networks for recognition: any size of image, no buffers, sizes that follow from the settings, and the usual parts."""

from typing import Any

import pytest
import torch
from torch import nn

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.models import build_model
from salus.common.models.blocks import halvings
from salus.common.models.inception import InceptionModule
from salus.common.vectors import layout_of
from salus.privacy.imprint import imprint_layers

TINY: dict[str, dict[str, Any]] = {
    "convnext": {"widths": (4, 8), "blocks": (1, 1), "kernel_size": 3},
    "densenet": {"first_width": 8, "growth": 2, "blocks": (1, 1)},
    "efficientnet": {"width": 0.25, "depth": 0.25, "stages": 3},
    "inception": {"widths": (8, 16), "modules": 1},
    "resnet50": {"widths": (2, 2, 4, 4)},
    "vgg": {"widths": (4, 8), "convolutions": 1, "hidden": 8},
    "vit": {"hidden_size": 16, "depth": 1, "heads": 2, "mlp_size": 16},
}


def settings(model: str, shape: tuple[int, ...] = (28, 28), channels: int = 1, **own: Any) -> TaskSettings:
    return TaskSettings(
        kind="classification", model=model, dataset="d", classes=("a", "b", "c"), shape=shape, channels=channels, **own
    )


@pytest.mark.parametrize("shape", [(28, 28), (96, 80), (12, 10, 12)])
@pytest.mark.parametrize("model", TINY)
def test_a_network_maps_images_to_logits_without_buffers_or_changes_in_place(
    model: str, shape: tuple[int, ...]
) -> None:
    network = build_model(settings(model, shape, channels=2, **TINY[model]), seed=0)
    found = network(torch.randn(2, 2, *shape))
    assert found.shape == (2, 3)
    assert found.isfinite().all()
    assert not list(network.buffers())
    assert not any(getattr(layer, "inplace", False) for layer in network.modules())
    assert not any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in network.modules())


@pytest.mark.parametrize("model", TINY)
def test_the_usual_settings_suit_a_few_hospitals_and_reveal_no_single_image(model: str) -> None:
    own = {"widths": (8, 16, 32, 64)} if model == "resnet50" else {}
    with torch.device("meta"):
        network = build_model(settings(model, **own), 0)
        assert imprint_layers(network, lambda net: net(torch.empty(2, 1, 28, 28)), 2) == []
    assert 40_000 < layout_of(network).size < 500_000


def test_resnet50_has_the_usual_size() -> None:
    with torch.device("meta"):
        network = build_model(settings("resnet50"), 0)
    assert 23_400_000 < layout_of(network).size < 23_700_000


@pytest.mark.parametrize("model", TINY)
def test_an_image_far_away_does_not_change_an_images_logits(model: str) -> None:
    network = build_model(settings(model, **TINY[model]), 0).double()
    images = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    changed = images.clone()
    changed[2] = 100.0
    assert torch.allclose(network(images)[:2], network(changed)[:2], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(network(images)[2], network(changed)[2])


def test_a_vision_transformer_knows_where_a_patch_is() -> None:
    network = build_model(settings("vit", **TINY["vit"]), 0)
    image = torch.randn(1, 1, 28, 28)
    assert not torch.allclose(network(image), network(image.flip(3).roll(4, 3)), atol=1e-5)
    swapped = image.clone()
    swapped[..., :4, :4], swapped[..., :4, 4:8] = image[..., :4, 4:8], image[..., :4, :4]
    assert not torch.equal(network(image), network(swapped))
    nn.init.zeros_(network.positions.weight)  # type: ignore[union-attr, arg-type]
    assert torch.allclose(network(image), network(swapped), atol=1e-5)


def test_the_branches_of_an_inception_module_see_neighbourhoods_of_their_own_size() -> None:
    module = InceptionModule(2, 1, 8).eval()
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1.0
    reach = []
    for branch in module.branches:
        convolved: torch.Tensor = point
        for layer in branch.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
                convolved = layer(convolved)
            elif isinstance(layer, nn.MaxPool2d):
                convolved = layer(convolved)
        reach.append(int((convolved[0, 0, 4] != 0).sum()))
    assert reach == [1, 3, 5, 3]


@pytest.mark.parametrize(
    ("model", "own"),
    [
        ("vit", {"hidden_size": 18, "heads": 4}),
        ("vit", {"patch": 29}),
        ("vit", {"patch": 1, "shape": (96, 96)}),
        ("convnext", {"kernel_size": 4}),
        ("convnext", {"blocks": (1, 1)}),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(model: str, own: dict[str, Any]) -> None:
    with pytest.raises(JobError):
        build_model(settings(model, **own), 0)


@pytest.mark.parametrize(
    ("model", "own"),
    [
        ("vgg", {"widths": (2048,)}),
        ("inception", {"widths": (12,)}),
        ("efficientnet", {"stages": 8}),
        ("densenet", {"blocks": (37,)}),
        ("resnet50", {"widths": (8, 8)}),
        ("vit", {"depth": 25}),
        ("convnext", {"expansion": 9}),
        ("vgg", {"growth": 4}),
    ],
)
def test_settings_beyond_their_bounds_or_of_another_network_are_refused(model: str, own: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(own))):
        settings(model, **own)


def test_sides_are_halved_while_pixels_remain() -> None:
    assert [halvings(settings("vgg", shape), 4) for shape in ((28, 28), (4, 64), (3, 3), (2, 2))] == [3, 1, 0, 0]
