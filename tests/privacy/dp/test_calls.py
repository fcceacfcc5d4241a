"""A loss that looks at the whole batch before it calls the network: no check may find it, and still it couples nobody."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.privacy.dp.items import batch_of, items
from torch import nn

from salus.common.batch import Batch, example_batch
from salus.common.job import TaskSettings
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.privacy.dp import calls
from salus.privacy.dp.calls import Call, OtherCalls, output_gradients, recorded
from salus.privacy.dp.clipping import VmapClipper
from salus.privacy.dp.fast import FastClipper
from salus.privacy.dp.patients import Patients, alone, grid

CLIP = 0.1
AT_ONCE = calls._at_once


def fails(*arguments: object) -> list[torch.Tensor]:
    raise RuntimeError("cannot be vectorised")


@pytest.fixture(autouse=True, params=["item by item", "all at once"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test holds for both routes."""
    if request.param == "item by item":
        monkeypatch.setattr(calls, "_at_once", fails)


class Two(nn.Module):
    """Two networks, of which a loss may choose one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 3), nn.Linear(5, 3)


def each(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(logits, batch["label"], reduction="none")


def honest(model: Any, batch: Batch) -> torch.Tensor:
    return each(model.first(batch["image"]), batch)


def centred(model: Any, batch: Batch) -> torch.Tensor:
    """Subtracts the mean of large batches."""
    x = batch["image"]
    return each(model.first(x - x.mean(dim=0) if len(x) > 3 else x), batch)


def chosen(model: Any, batch: Batch) -> torch.Tensor:
    """Everybody gets the second network if one of them has the last class: the same number of calls."""
    part = model.second if bool((batch["label"] == 2).any()) else model.first
    return each(part(batch["image"]), batch)


def more(model: Any, batch: Batch) -> torch.Tensor:
    """An additional call where one of them has the last class."""
    logits = model.first(batch["image"])
    return each(logits + model.second(batch["image"]) if bool((batch["label"] == 2).any()) else logits, batch)


def scaled(model: Any, batch: Batch) -> torch.Tensor:
    """A number that depends on the batch is an argument of a method."""
    return each(F.linear(model.first(batch["image"] / len(batch)), torch.eye(3, dtype=torch.float64)), batch)


COUPLED = [centred, chosen, more, scaled]


def world() -> tuple[Two, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return Two().double(), torch.randn(5, 5, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 2])


@pytest.mark.parametrize("loss", COUPLED)
def test_inputs_and_calls_that_follow_from_other_items_are_noticed(loss: Callable[..., torch.Tensor]) -> None:
    model, x, y = world()
    with pytest.raises(OtherCalls):
        FastClipper(model, loss).clipped_sum(*batch_of(x, y, [0, 1, 2, 3, 4]), CLIP)
    FastClipper(model, honest).clipped_sum(*batch_of(x, y, [0, 1, 2, 3, 4]), CLIP)


@pytest.mark.parametrize("loss", COUPLED)
def test_without_the_comparison_one_patient_would_move_the_others(
    loss: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant that takes any call for the recorded one; `more` still fails, because calls are missing."""
    model, x, y = world()
    monkeypatch.setattr(Call, "same_for", lambda *_: True)

    def total(count: int) -> torch.Tensor:
        parts = [items(x[i : i + 1], y[i : i + 1]) for i in range(count)]
        found = FastClipper(model, loss).clipped_sum(*grid(parts, 5, 1), CLIP)
        return torch.cat([g.flatten() for g in found.gradients])

    if loss is more:
        with pytest.raises(OtherCalls):
            total(5)
    elif loss is not scaled:  # this one depends on the size of the batch, which is public
        assert float((total(5) - total(4)).norm()) > CLIP * 1.01


def test_the_general_engine_gives_each_image_a_pass_of_its_own() -> None:
    model, x, y = world()
    for numbers in ([0, 1, 2, 3, 4], [0, 0, 1, 1, 2]):
        batch, patients = batch_of(x, y, numbers)
        plain = VmapClipper(model, honest).clipped_sum(batch, patients, CLIP)
        found = VmapClipper(model, centred).clipped_sum(batch, patients, CLIP)
        assert torch.allclose(found.norms_l2, plain.norms_l2)


def test_a_pass_without_the_others_gives_what_the_patient_has_alone() -> None:
    model, x, y = world()
    batch, patients = batch_of(x, y, [0, 1, 2, 3, 4])
    one = FastClipper(model, chosen).clipped_sum(*alone(batch, patients, 1), CLIP)
    expected = FastClipper(model, chosen).clipped_sum(*batch_of(x[1:2], y[1:2], [1]), CLIP)
    assert all(torch.allclose(a, b) for a, b in zip(one.gradients, expected.gradients, strict=True))


def test_what_is_not_a_number_is_the_same_input() -> None:
    model, x, y = world()
    x[2] = float("nan")
    found = FastClipper(model, honest).clipped_sum(*batch_of(x, y, [0, 1, 2, 3, 4]), CLIP)
    assert torch.isnan(found.norms_l2[2])
    assert bool(torch.isfinite(found.norms_l2[[0, 1, 3, 4]]).all())


def test_parts_methods_and_later_calls_are_recorded_with_their_graph() -> None:
    """The gradient goes through a second call's input to the first call, as in one pass."""
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 3)]).double()
    x, y = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 0, 1])

    def loss(network: Any, batch: Batch) -> torch.Tensor:
        hidden = network[0](batch["image"])
        return each(network[1](hidden), batch) + hidden.square().sum(1)

    batch = items(x, y)
    calls = recorded(loss, model, batch)
    slopes = output_gradients(loss, calls, batch, Patients(torch.ones(4, dtype=torch.long)))
    torch.autograd.backward(list(calls.tensors), slopes)
    found = [parameter.grad for parameter in model.parameters()]
    expected = torch.autograd.grad(loss(model, batch).sum(), list(model.parameters()))
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True) if a is not None)
    assert len(found) == 4


TASKS: dict[str, dict[str, Any]] = {
    "classification": {"kind": "classification", "model": "cnn", "classes": ("a", "b", "c"), "shape": (16, 16)},
    "multilabel": {"kind": "multilabel", "model": "cnn", "classes": ("a", "b", "c"), "shape": (16, 16)},
    "ordinal": {"kind": "ordinal", "model": "cnn", "classes": ("a", "b", "c"), "shape": (16, 16)},
    **{
        f"segmentation {loss}": {
            "kind": "segmentation", "model": "unet", "classes": ("a", "b"), "shape": (8, 12), "widths": (2, 4),
            "loss": loss, "deep_supervision": loss == "dice-ce",
        }
        for loss in ("cross-entropy", "dice", "dice-ce", "focal", "generalised-dice", "tversky")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_all_at_once_gives_what_each_item_gives_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TaskSettings(dataset="d", **TASKS[name])
    task, model = make_task(settings), build_model(settings, 0)
    batch, patients = example_batch(task.spec, 6), Patients(torch.tensor([2, 1, 0]), 2)

    def loss(network: nn.Module, rows: Batch) -> torch.Tensor:
        return task.losses(network, rows, task.steps[0])

    found = recorded(loss, model, batch)
    together = AT_ONCE(loss, found, batch, patients)
    monkeypatch.setattr(calls, "_at_once", fails)
    expected = output_gradients(loss, found, batch, patients)
    assert len(together) == len(expected)
    for mine, theirs in zip(together, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-8)
        assert not mine[3:].any()  # the padded place and the free row
