"""Networks for segmentation: shapes, settings, no buffers, every parameter used, and per-patient gradients without the batch."""

from typing import Any

import pytest
import torch

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.models import build_model
from salus.common.models.outputs import Padded
from salus.common.vectors import layout_of

SMALL: dict[str, dict[str, Any]] = {
    "attention-unet": {"widths": (4, 8, 16)},
    "fcn": {"widths": (4, 8, 16)},
    "filter-bank": {},
    "segresnet": {"blocks": (1, 1, 1)},
    "unet": {"widths": (8, 16, 32)},
    "unetr": {"hidden_size": 24, "heads": 2, "mlp_size": 24, "first_width": 4},
    "vnet": {},
}
FAST = ("attention-unet", "fcn", "filter-bank", "segresnet", "unet", "vnet")


def settings(
    model: str, shape: tuple[int, ...] = (32, 40), channels: int = 1, classes: tuple[str, ...] = ("a", "b"), **own: Any
) -> TaskSettings:
    return TaskSettings(
        kind="segmentation", model=model, dataset="d", classes=classes, shape=shape, channels=channels, **own
    )


@pytest.mark.parametrize("shape", [(32, 40), (33, 35), (17, 18, 35)])
@pytest.mark.parametrize("model", SMALL)
def test_every_network_gives_one_channel_for_the_background_and_each_structure(
    model: str, shape: tuple[int, ...]
) -> None:
    if model == "vnet" and len(shape) == 3:
        shape = (16, 16, 17)
    network = build_model(settings(model, shape, channels=2, **SMALL[model]), seed=0)
    assert network(torch.randn(2, 2, *shape)).shape == (2, 3, *shape)
    assert not list(network.buffers())


@pytest.mark.parametrize("model", SMALL)
def test_every_parameter_reaches_the_output(model: str) -> None:
    network = build_model(settings(model, **SMALL[model]), seed=0)
    network(torch.randn(2, 1, 32, 40)).square().sum().backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias before a normalisation over its own channel has no effect, so its gradient may vanish; there must be one.
    assert not [name for name in unused if dict(network.named_parameters())[name].grad is None]


@pytest.mark.parametrize("model", SMALL)
def test_no_layer_works_in_place_and_items_do_not_mix(model: str) -> None:
    network = build_model(settings(model, **SMALL[model]), seed=0).train()
    assert not any(getattr(layer, "inplace", False) for layer in network.modules())
    x = torch.randn(3, 1, 32, 40)
    other = x.clone()
    other[1:] = torch.randn(2, 1, 32, 40)
    assert torch.allclose(network(x)[0], network(other)[0], atol=1e-5)


@pytest.mark.parametrize("model", FAST)
def test_convolutional_networks_have_only_layers_of_the_fast_engine(model: str) -> None:
    from salus.privacy.dp.clipped import with_parameters
    from salus.privacy.dp.layers import supported

    network = build_model(settings(model, **SMALL[model]), seed=0)
    assert all(supported(layer) for layer in with_parameters(network))


@pytest.mark.parametrize("model", ["unet", "segresnet"])
def test_deep_supervision_adds_outputs_in_training_only(model: str) -> None:
    own = {**SMALL[model], "deep_supervision": True}
    network = build_model(settings(model, (32, 40), **own), seed=0)
    x = torch.randn(2, 1, 32, 40)
    assert network.train()(x).shape == (2, 2, 3, 32, 40)
    network(x).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert network.eval()(x).shape == (2, 3, 32, 40)
    assert torch.equal(network.train()(x)[:, 0], network.eval()(x))


def test_the_small_u_net_is_monais_of_the_trial() -> None:
    from monai.networks.nets import UNet as Peer

    task = settings("unet", (16, 16, 16), classes=("anterior", "posterior"), widths=(8, 16, 32), first_stride=2)
    assert layout_of(build_model(task, 0)).size == 29_355
    with torch.random.fork_rng(devices=[]):
        peer = Peer(3, 1, 3, (8, 16, 32), (2, 2), num_res_units=0, norm=("group", {"num_groups": 1}), act="relu")
    assert sum(p.numel() for p in peer.parameters()) == 29_355


@pytest.mark.parametrize("first_stride", [1, 2])
@pytest.mark.parametrize("convolutions", [1, 2])
@pytest.mark.parametrize("widths", [(4, 8), (4, 8, 8, 8)])
def test_the_u_net_takes_any_size_with_any_settings(
    widths: tuple[int, ...], convolutions: int, first_stride: int
) -> None:
    task = settings("unet", widths=widths, convolutions=convolutions, first_stride=first_stride, deep_supervision=True)
    network = build_model(task, 0).eval()
    for shape in ((16, 16), (17, 19), (9, 31)):
        assert network(torch.zeros(1, 1, *shape)).shape == (1, 3, *shape)


def test_positions_tell_equal_voxels_apart() -> None:
    flat = torch.zeros(1, 1, 16, 24)
    blind, seeing = (build_model(settings("unet", (16, 24), widths=(4, 8), coordinates=on), 0) for on in (False, True))
    assert layout_of(seeing).size - layout_of(blind).size == 4 * 4 * 9  # four channels, four filters of 3 x 3
    for model in (blind, seeing):
        model.requires_grad_(False)
    inner = (..., slice(6, 10), slice(6, 18))
    assert float(blind(flat)[inner].std(dim=(2, 3)).max()) < 1e-5
    assert float(seeing(flat)[inner].std(dim=(2, 3)).min()) > 1e-3
    from salus.common.models.unet import positions

    found = positions(torch.zeros(2, 1, 3, 5))
    assert found.shape == (2, 4, 3, 5)
    assert found[1, 0, :, 0].tolist() == [-1, 0, 1]
    assert found[0, 1, 0, :].tolist() == [-1, -0.5, 0, 0.5, 1]


def test_one_structure_or_overlapping_ones_have_no_background() -> None:
    one = build_model(settings("unet", classes=("tumour",)), 0)
    assert one(torch.zeros(1, 1, 32, 40)).shape == (1, 1, 32, 40)


def test_padding_does_not_change_the_voxels_of_a_fitting_image() -> None:
    inner = torch.nn.Conv2d(1, 2, 1)
    padded = Padded(inner, 8)
    x = torch.randn(1, 1, 9, 16)
    assert torch.allclose(padded(x), inner(x))


def test_settings_that_a_network_does_not_support_are_refused() -> None:
    with pytest.raises(JobError, match="number of heads"):
        build_model(settings("unetr", heads=5), 0)
    with pytest.raises(JobError, match="sides above 16"):
        build_model(settings("unetr", (16, 64)), 0)
    with pytest.raises(JobError, match="1, 2, 4, 8 or 16 channels"):
        build_model(settings("vnet", channels=3), 0)
    with pytest.raises(JobError, match="2 or 3 sides"):
        build_model(settings("unet", (8,)), 0)
    with pytest.raises(JobError, match="does not classify"):
        build_model(TaskSettings(kind="classification", model="unet", dataset="d", classes=("a", "b"), shape=(8, 8)), 0)
