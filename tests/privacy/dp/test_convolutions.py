"""Per-patient gradients of convolutions: all images in one grouped call, against autograd image by image."""

import pytest
import torch
from torch import nn

from salus.privacy.dp import convolutions
from salus.privacy.dp.convolutions import convolution, instances_of_convolution, instantiating
from salus.privacy.dp.patients import Patients

LAYERS = {
    "1-d": (nn.Conv1d(2, 3, 3, padding=1), (7,)),
    "2-d stride": (nn.Conv2d(2, 4, 3, stride=2, padding=1), (6, 5)),
    "2-d groups": (nn.Conv2d(4, 6, 3, groups=2, bias=False), (6, 5)),
    "3-d dilation": (nn.Conv3d(2, 3, 3, padding=2, dilation=2), (5, 4, 6)),
    "3-d stride": (nn.Conv3d(3, 2, 2, stride=2), (4, 4, 6)),
    "1-d transposed": (nn.ConvTranspose1d(3, 2, 3, stride=2), (5,)),
    "2-d transposed": (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), (4, 5)),
    "3-d transposed": (nn.ConvTranspose3d(3, 2, 2, stride=2, bias=False), (2, 3, 2)),
}
PATIENTS = Patients(torch.tensor([2, 1, 0, 2]), 2)  # one with a padded place, and a free row


def given(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a layer, inputs and output gradients, which are zero where there is no image, as the engine makes them."""
    layer, sides = LAYERS[name]
    draw = torch.Generator().manual_seed(3)
    channels = layer.in_channels
    assert isinstance(channels, int)
    inputs = torch.randn(8, channels, *sides, generator=draw)
    gradient = torch.randn(layer(inputs).shape, generator=draw)
    present = torch.zeros(8, dtype=torch.bool)
    present[[place for place, _ in PATIENTS.numbers()]] = True
    gradient[~present] = 0
    return layer, inputs, gradient


def expected(layer: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return each patient's gradient by ordinary backward passes."""
    rows = {name: torch.zeros(PATIENTS.count, *p.shape) for name, p in layer.named_parameters()}
    for place, patient in PATIENTS.numbers():
        layer.zero_grad()
        layer(inputs[place : place + 1]).backward(gradient[place : place + 1])
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None
            rows[name][patient] += parameter.grad
    return rows


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_patients(name: str, at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "_at_once", lambda layer, inputs: at_once)
    layer, inputs, gradient = given(name)
    wanted = expected(layer, inputs, gradient)
    found = instances_of_convolution(layer, inputs, gradient, PATIENTS)
    summed = instantiating(layer, inputs, gradient, PATIENTS)
    factors = torch.tensor([0.5, 1.0, 0.0, 0.25], dtype=torch.float64)
    total = summed.weighted(factors)
    squares = torch.zeros(PATIENTS.count, dtype=torch.float64)
    for key, parameter in layer.named_parameters():
        torch.testing.assert_close(found[parameter], wanted[key], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            total[parameter], torch.tensordot(factors, wanted[key].double(), 1), rtol=1e-5, atol=1e-5
        )
        squares += wanted[key].double().flatten(1).square().sum(1)
    torch.testing.assert_close(summed.squared_norms, squares, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in LAYERS if "transposed" not in name])
def test_both_routes_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, inputs, gradient = given(name)
    found = []
    for ghost in (True, False):
        monkeypatch.setattr(convolutions, "ghost_pays", lambda *sizes, ghost=ghost: ghost)
        found.append(convolution(layer, inputs, gradient, PATIENTS).squared_norms)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("3-d")])
def test_a_patient_that_is_not_finite_leaves_the_others_unchanged(name: str, value: float) -> None:
    layer, inputs, gradient = given(name)
    before = instantiating(layer, inputs, gradient, PATIENTS)
    inputs[0, 0] = value  # of the first patient
    after = instantiating(layer, inputs, gradient, PATIENTS)
    assert not torch.isfinite(after.squared_norms[0])
    assert torch.equal(after.squared_norms[1:], before.squared_norms[1:])
    factors = torch.tensor([0.0, 1.0, 0.0, 0.25], dtype=torch.float64)
    for parameter, total in before.weighted(factors).items():
        assert torch.equal(after.weighted(factors)[parameter], total)


def test_every_3d_convolution_goes_through_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    one = convolutions._weight_gradients
    monkeypatch.setattr(convolutions, "_weight_gradients", lambda layer, i, g: calls.append(len(i)) or one(layer, i, g))
    for name, sizes in (("3-d stride", [8]), ("2-d stride", [1] * 5)):
        calls.clear()
        instantiating(*given(name), PATIENTS)
        assert calls == sizes
