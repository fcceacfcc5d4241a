"""Every loss against a slow loop over voxels, and against MONAI's or torch's where they define the same."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.losses import LOSSES, make_loss
from salus.common.losses.base import Loss

NAMES = ["cross-entropy", "dice", "dice-ce", "focal", "generalised-dice", "tversky"]
WEIGHTS = (0.5, 2.0, 1.0)
SMOOTH = 1.0  # the default


def loss_of(name: str, structures: int = 2, **own: Any) -> Loss:
    task = TaskSettings(kind="segmentation", loss=name, dataset="d", classes=tuple("abc")[:structures], **own)
    return make_loss(name, task)


def items(structures: int, competing: bool, seed: int = 0, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and masks; the last structure is absent from the last item."""
    generator = torch.Generator().manual_seed(seed)
    shape = (4, 3, 2)
    logits = 2 * torch.randn(count, structures + competing, *shape, generator=generator, dtype=torch.float64)
    if competing:
        mask = torch.randint(0, structures + 1, (count, *shape), generator=generator)
        mask[-1][mask[-1] == structures] = 0
        wanted = torch.stack([mask == number for number in range(1, structures + 1)], dim=1)
    else:
        wanted = torch.randint(0, 2, (count, structures, *shape), generator=generator).bool()
        wanted[-1, -1] = False
    return logits, wanted.double()


def classes_of(logits: torch.Tensor, wanted: torch.Tensor, background: bool) -> tuple[list[Any], list[Any]]:
    """Probabilities and truth of one item as lists of classes of voxels, by scalar arithmetic."""
    flat, truth = logits.flatten(1).tolist(), wanted.flatten(1).tolist()
    if len(flat) == len(truth):
        return [[1 / (1 + math.exp(-v)) for v in channel] for channel in flat], truth
    voxels = range(len(truth[0]))
    total = [sum(math.exp(channel[v]) for channel in flat) for v in voxels]
    chances = [[math.exp(channel[v]) / total[v] for v in voxels] for channel in flat]
    whole = [[1 - sum(t[v] for t in truth) for v in voxels], *truth]
    return (chances, whole) if background else (chances[1:], truth)


def mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


def slow_overlap(logits: torch.Tensor, wanted: torch.Tensor, weights: Sequence[float], a: float, b: float) -> float:
    smooth = SMOOTH / 2 if a == b else SMOOTH  # the Dice coefficient has twice the numbers of this fraction
    chances, truth = classes_of(logits, wanted, False)
    values = []
    for p, t in zip(chances, truth, strict=True):
        tp = sum(x * y for x, y in zip(p, t, strict=True))
        fp, fn = sum(p) - tp, sum(t) - tp
        values.append(1 - (tp + smooth) / (tp + a * fp + b * fn + smooth))
    return mean(values, weights[-len(values) :])


def slow_voxels(logits: torch.Tensor, wanted: torch.Tensor, weights: Sequence[float], gamma: float) -> float:
    chances, truth = classes_of(logits, wanted, True)
    competing = len(logits) == len(wanted) + 1
    total = above = 0.0
    for place, (p, t) in enumerate(zip(chances, truth, strict=True)):
        for x, y in zip(p, t, strict=True):
            if competing:
                share, chance = (weights[place], x) if y else (0.0, 1.0)
            else:
                share, chance = (weights[place + 1], x) if y else (weights[0], 1 - x)
            total += share
            above -= share * (1 - chance) ** gamma * math.log(chance)
    return above / total


def slow_generalised(logits: torch.Tensor, wanted: torch.Tensor, weights: Sequence[float]) -> float:
    chances, truth = classes_of(logits, wanted, False)
    shares = [w / max(1.0, sum(t)) ** 2 for w, t in zip(weights[-len(truth) :], truth, strict=True)]
    shares = [share / sum(shares) for share in shares]
    common = sum(
        s * sum(x * y for x, y in zip(p, t, strict=True)) for s, p, t in zip(shares, chances, truth, strict=True)
    )
    sizes = sum(s * (sum(p) + sum(t)) for s, p, t in zip(shares, chances, truth, strict=True))
    return 1 - (2 * common + SMOOTH) / (sizes + SMOOTH)


SLOW: dict[str, Callable[[torch.Tensor, torch.Tensor, Sequence[float]], float]] = {
    "dice": lambda x, y, w: slow_overlap(x, y, w, 0.5, 0.5),
    "tversky": lambda x, y, w: slow_overlap(x, y, w, 0.3, 0.7),
    "generalised-dice": slow_generalised,
    "cross-entropy": lambda x, y, w: slow_voxels(x, y, w, 0),
    "focal": lambda x, y, w: slow_voxels(x, y, w, 2),
    "dice-ce": lambda x, y, w: 0.5 * slow_overlap(x, y, w, 0.5, 0.5) + 0.5 * slow_voxels(x, y, w, 0),
}


def test_every_registered_loss_is_tested_here() -> None:
    assert LOSSES.names() == NAMES == sorted(SLOW)


@pytest.mark.parametrize("weights", [(), WEIGHTS])
@pytest.mark.parametrize("competing", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_each_item_has_the_loss_of_a_loop_over_its_voxels(
    name: str, competing: bool, weights: tuple[float, ...]
) -> None:
    logits, wanted = items(2, competing)
    found = loss_of(name, class_weights=weights)(logits, wanted)
    expected = [SLOW[name](x, y, weights or (1.0, 1.0, 1.0)) for x, y in zip(logits, wanted, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("competing", [True, False])
def test_dice_and_tversky_agree_with_monai(competing: bool) -> None:
    from monai.losses import DiceLoss, TverskyLoss

    logits, wanted = items(2, competing)
    truth = torch.cat([1 - wanted.sum(1, keepdim=True), wanted], 1) if competing else wanted
    how = {"softmax": competing, "sigmoid": not competing, "include_background": not competing, "reduction": "none"}
    dice = DiceLoss(**how, smooth_nr=1.0, smooth_dr=1.0)(logits, truth).flatten(1).mean(1)
    assert torch.allclose(loss_of("dice")(logits, wanted), dice)
    tversky = TverskyLoss(**how, alpha=0.3, beta=0.7, smooth_nr=1.0, smooth_dr=1.0)(logits, truth).flatten(1).mean(1)
    assert torch.allclose(loss_of("tversky")(logits, wanted), tversky)


def test_cross_entropy_agrees_with_torch() -> None:
    logits, wanted = items(2, True)
    mask = (wanted * torch.tensor([1.0, 2.0])[None, :, None, None, None]).sum(1).long()
    found = loss_of("cross-entropy", class_weights=WEIGHTS)(logits, wanted)
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    for item in range(len(logits)):
        expected = F.cross_entropy(logits[item : item + 1], mask[item : item + 1], weight=weight)
        assert found[item].item() == pytest.approx(expected.item())
    logits, wanted = items(2, False)
    expected = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").flatten(1).mean(1)
    assert torch.allclose(loss_of("cross-entropy")(logits, wanted), expected)


@pytest.mark.parametrize("competing", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_an_item_is_alone_in_its_loss(name: str, competing: bool) -> None:
    logits, wanted = items(2, competing)
    logits.requires_grad_()
    loss = loss_of(name, class_weights=WEIGHTS)
    values = loss(logits, wanted)
    assert torch.allclose(values[:1], loss(logits[:1], wanted[:1]))
    (gradient,) = torch.autograd.grad(values[0], logits)
    assert gradient[0].abs().sum() > 0
    assert not gradient[1:].any()


@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    name=st.sampled_from(NAMES),
    competing=st.booleans(),
)
def test_losses_and_their_gradients_are_finite_for_any_logits(
    seed: int, scale: float, name: str, competing: bool
) -> None:
    logits, wanted = items(2, competing, seed)
    logits = (scale * logits).float().requires_grad_()
    loss = loss_of(name)(logits, wanted.float())
    assert bool((loss >= 0).all())
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(torch.isfinite(loss).all() & torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("competing", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_right_prediction_costs_less_than_a_wrong_one(name: str, competing: bool) -> None:
    _, wanted = items(2, competing)
    right = torch.cat([1 - wanted.sum(1, keepdim=True), wanted], 1) if competing else wanted
    loss = loss_of(name)
    assert bool((loss(20 * right - 10, wanted) < 0.05).all())
    assert bool((loss(10 - 20 * right, wanted) > 0.3).all())


@pytest.mark.parametrize("name", NAMES)
def test_losses_run_under_vmap(name: str) -> None:
    """The fallback of the clipping engine needs it."""
    logits, wanted = items(2, True)
    loss = loss_of(name, class_weights=WEIGHTS)

    def one(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return loss(x[None], y[None])[0]

    found = torch.func.vmap(torch.func.grad(one))(logits, wanted)
    logits.requires_grad_()
    (expected,) = torch.autograd.grad(loss(logits, wanted).sum(), logits)
    assert torch.allclose(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_numbers_of_weights_are_refused(name: str) -> None:
    for weights in ((1.0, 1.0), (1.0, 0.0, 0.0)):
        with pytest.raises(JobError, match="Expected 3 numbers in task.class_weights"):
            loss_of(name, class_weights=weights)


def test_an_item_of_weightless_voxels_costs_nothing() -> None:
    logits, wanted = items(2, True)
    loss = loss_of("cross-entropy", class_weights=(0.0, 1.0, 1.0))(logits, torch.zeros_like(wanted))
    assert np.array_equal(loss.numpy(), np.zeros(3))


def test_the_background_counts_only_if_asked() -> None:
    logits, wanted = items(2, True)
    with_it = loss_of("dice", include_background=True)(logits, wanted)
    assert not torch.allclose(with_it, loss_of("dice")(logits, wanted))
    from monai.losses import DiceLoss

    truth = torch.cat([1 - wanted.sum(1, keepdim=True), wanted], 1)
    expected = DiceLoss(softmax=True, reduction="none", smooth_nr=1.0, smooth_dr=1.0)(logits, truth).flatten(1).mean(1)
    assert torch.allclose(with_it, expected)


def test_one_structure_alone_is_a_yes_or_no() -> None:
    logits, wanted = items(1, False)
    assert loss_of("dice", structures=1)(logits, wanted).shape == (3,)
