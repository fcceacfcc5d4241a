"""What one patient adds depends on that patient alone: not on who shares the batch, how many there are, or its own row."""

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.privacy.dp.items import cross_entropy, items, loss, loss_of
from torch import nn

from salus.common.batch import Batch, example_batch, joined
from salus.common.job import TaskSettings
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.privacy.dp import rows as rows_module
from salus.privacy.dp.checks import drawn_anew
from salus.privacy.dp.clipped import LARGEST_NORM, ClippedSum, clip_factors
from salus.privacy.dp.clipping import VmapClipper, make_clipper
from salus.privacy.dp.fast import FastClipper
from salus.privacy.dp.patients import Patients, alone, grid, places_of
from salus.privacy.dp.rows import INTEGERS, _digest, independent_rows, tries_of

ROWS, CLIP = 8, 0.5
CPU = torch.device("cpu")


def task_settings(model: str, side: int = 16) -> TaskSettings:
    return TaskSettings(kind="classification", model=model, dataset="d", classes=("a", "b"), shape=(side, side))


def parts_of(count: int, side: int = 16, images: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(4)
    return [
        items(torch.rand(images, 1, side, side, generator=generator) * 2 - 1, torch.randint(0, 2, (images,)))
        for _ in range(count)
    ]


def scaled(part: Batch, factor: float) -> Batch:
    return items(part["image"] * factor, part["label"])


def flat(found: ClippedSum) -> torch.Tensor:
    return torch.cat([g.flatten() for g in found.gradients])


def crafted(name: str, side: int = 16, scale: float = 1e20) -> nn.Module:
    """Return a network whose last hidden values are about as large as `scale`, and whose head says nothing yet."""
    model: Any = build_model(task_settings(name, side), 0)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.GroupNorm)]
    heads = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        norms[-1].weight.fill_(scale)
        norms[-1].bias.zero_()
        heads[-1].weight.zero_()
        heads[-1].bias.zero_()
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize("scale", [1.0, 1e5, 1e15, 1e20, 1e30])
@pytest.mark.parametrize("kind", [FastClipper, VmapClipper])
def test_one_patient_moves_the_sum_by_the_clip_norm_at_most_whatever_the_parameters(
    scale: float, kind: type[FastClipper] | type[VmapClipper]
) -> None:
    """Found by an attack: with a weight of 1e20 one patient with two images decided whether all others counted."""
    clipper = kind(crafted("cnn", scale=scale), loss)
    parts = parts_of(ROWS - 1)
    mine = joined([parts[0], parts[0]])
    without = flat(clipper.clipped_sum(*grid(parts, ROWS, 2), CLIP))
    found = flat(clipper.clipped_sum(*grid([*parts, mine], ROWS, 2), CLIP))
    assert float((found - without).norm()) <= CLIP * (1 + 2.0**-12)


def test_a_norm_beyond_the_largest_one_counts_as_not_finite_for_that_patient_alone() -> None:
    norms = torch.tensor([1.0, LARGEST_NORM, 1.1 * LARGEST_NORM, float("inf"), float("nan"), 0.0], dtype=torch.float64)
    assert clip_factors(norms, 0.5).tolist() == [0.5, 0.5 / LARGEST_NORM, 0.0, 0.0, 0.0, 1.0]
    parts = parts_of(ROWS)
    for strange in (1e19, 1e30, float("inf"), float("nan")):
        x = [scaled(part, strange if place == 3 else 1.0) for place, part in enumerate(parts)]
        model = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
        found = FastClipper(model, loss).clipped_sum(*grid(x, ROWS, 1), CLIP)
        others = FastClipper(model, loss).clipped_sum(*grid([*parts[:3], *parts[4:]], ROWS, 1), CLIP)
        assert found.norms_l2[[0, 1, 2, 4, 5, 6, 7]].tolist() == others.norms_l2[:7].tolist()
        assert torch.allclose(flat(found), flat(others), atol=1e-12)


class AllOrNothing(FastClipper):
    """Mutant: one patient whose gradient overflows in single precision takes the batch with it, as before the attack."""

    def clipped_sum(self, batch, patients, clip_norm_l2):  # type: ignore[no-untyped-def]
        found = super().clipped_sum(batch, patients, clip_norm_l2)
        overflows = bool(found.norms_l2.float().square().isinf().any())
        return ClippedSum([g * (not overflows) for g in found.gradients], found.norms_l2)


@pytest.mark.parametrize("kind", [FastClipper, AllOrNothing])
def test_one_patient_with_huge_values_does_not_decide_for_all(kind: type[FastClipper]) -> None:
    clipper = kind(nn.Sequential(nn.Flatten(), nn.Linear(256, 2)), loss_of(lambda outputs, targets: outputs.sum(1)))
    parts = parts_of(ROWS)
    huge = [*parts[:3], scaled(parts[3], 1e20), *parts[4:]]
    whole = flat(clipper.clipped_sum(*grid(huge, ROWS, 1), CLIP))
    without = flat(clipper.clipped_sum(*grid([*parts[:3], *parts[4:]], ROWS, 1), CLIP))
    holds = bool((whole - without).norm() <= CLIP * (1 + 2.0**-12))
    assert holds == (kind is FastClipper)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("value", [1e-23, 1e-30, 1e-34])
def test_activations_that_vanish_when_squared_are_clipped_all_the_same(value: float, images: int) -> None:
    """Found by an attack: squares of 5e-24 are zero in single precision, so that the norm was zero and nothing was clipped."""
    layer = nn.Conv2d(64, 64, 3, padding=1, bias=False)  # wide, with few positions: a ghost norm
    inputs = torch.full((images, 64, 2, 2), value)

    def steep(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.flatten(1).sum(1) * (1e3 / value)

    part = items(inputs, torch.zeros(images, dtype=torch.long))
    found = FastClipper(layer, loss_of(steep)).clipped_sum(*grid([part], 2, places_of(images, 8)), 0.01)
    assert 0.009 < float(flat(found).norm()) <= 0.01 * (1 + 2.0**-12)


def library_moves_bits(model: nn.Module, images: torch.Tensor, shifts: tuple[int, ...]) -> bool:
    """Return whether torch itself computes an image with other last bits at another place of the batch, on this processor."""
    seen: list[torch.Tensor] = []

    def watch(layer: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen.append(output.detach())
        if output.requires_grad:
            output.register_hook(seen.append)  # type: ignore[no-untyped-call]

    def values(rows: torch.Tensor) -> list[torch.Tensor]:
        seen.clear()
        handles = [layer.register_forward_hook(watch) for layer in model.modules() if not list(layer.children())]
        cross_entropy(model(rows), torch.zeros(len(rows), dtype=torch.long)).sum().backward()
        for handle in handles:
            handle.remove()
        return list(seen)

    return any(
        not torch.equal(before.roll(shift, 0), after)
        for shift in shifts
        for before, after in zip(values(images), values(images.roll(shift, 0)), strict=True)
    )


@functools.cache
def rows_of_this_machine() -> int:
    """Return a batch size whose rows are independent on this processor; for another one the trainer takes patients singly."""
    model, task = build_model(task_settings("cnn"), 0), make_task(task_settings("cnn"))
    for rows in (ROWS, 2 * ROWS, 4 * ROWS):
        if independent_rows(FastClipper(model, loss), model, task, rows, 1, CPU):
            return rows
    pytest.skip("on this processor torch computes the rows of a batch with different instructions, whatever its size")


@pytest.mark.parametrize("model", ["logistic", "cnn", "resnet18"])
@pytest.mark.parametrize("places", [1, 2])
def test_every_rows_norm_is_the_same_to_the_last_bit_wherever_it_stands(model: str, places: int) -> None:
    """The engine keeps to it wherever torch does; elsewhere the check says so, and the trainer takes patients one at a time."""
    task = make_task(task_settings(model))
    network = build_model(task.settings, 0)
    shifts = (places, ROWS // places // 2 * places)
    moved = any(
        library_moves_bits(
            drawn_anew(build_model(task.settings, 0), seed), example_batch(task.spec, ROWS, seed)["image"], shifts
        )
        for seed in range(tries_of(network))
    )
    assert independent_rows(make_clipper(network, loss), network, task, ROWS // places, places, CPU) or moved


@settings(max_examples=12, deadline=None)
@given(
    order=st.permutations(range(ROWS)),
    kept=st.sets(st.integers(1, ROWS - 1)),
    scale=st.sampled_from([1.0, 1e-20, 1e10, float("nan")]),
)
def test_a_patients_clipped_gradient_depends_on_nobody_else(order: list[int], kept: set[int], scale: float) -> None:
    """Patient 0 with any others in any order: its norm is the same to the last bit, and so are its part of the sum's norms."""
    torch.manual_seed(0)
    network = build_model(task_settings("cnn"), 0)
    clipper, rows = FastClipper(network, loss), rows_of_this_machine()
    parts = parts_of(ROWS)
    parts = [part if place == 0 else scaled(part, scale) for place, part in enumerate(parts)]
    alone = clipper.clipped_sum(*grid(parts[:1], rows, 1), CLIP)
    chosen = [place for place in order if place == 0 or place in kept]
    found = clipper.clipped_sum(*grid([parts[place] for place in chosen], rows, 1), CLIP)
    assert found.norms_l2[chosen.index(0)] == alone.norms_l2[0]
    others = clipper.clipped_sum(*grid([parts[p] for p in chosen if p], rows, 1), CLIP) if kept else None
    rest = flat(others) if others else 0.0
    assert torch.allclose(flat(found) - rest, flat(alone), rtol=0, atol=1e-12)


class Shared(nn.Module):
    """A network whose rows share a kernel: what a row computes depends on the size of the largest one, in the last bit."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(256, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        unit = x.abs().nan_to_num().max() * 3
        result: torch.Tensor = self.last(x / unit * unit)
        return result


class FirstRowFaster(FastClipper):
    """Mutant: the first row is computed in another order."""

    def of_copy(self, model: nn.Module) -> FastClipper:
        return FirstRowFaster(model, self._loss)

    def clipped_sum(self, batch, patients, clip_norm_l2):  # type: ignore[no-untyped-def]
        found = super().clipped_sum(batch, patients, clip_norm_l2)
        found.norms_l2[0] *= 1 + 2.0**-50
        return found


class Half(nn.Linear):
    """A library whose last rows are computed in another order, which shows in the rounded norms of few tries only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = super().forward(x)
        low = found.detach().view(torch.int32) % 8 == 0  # one number in eight is rounded otherwise
        moved = torch.where(low, found * (1 + 2.0**-23), found)
        return torch.cat([found[:-1], moved[-1:]])


def test_rows_that_depend_on_their_place_or_on_other_rows_are_found() -> None:
    task = make_task(task_settings("logistic"))
    for network, kind in (
        (Shared(), FastClipper),
        (build_model(task.settings, 0), FirstRowFaster),
        (nn.Sequential(nn.Flatten(), Half(256, 2)), FastClipper),
    ):
        assert not independent_rows(kind(network, loss), network, task, 2 * ROWS, 1, CPU)


def test_parameters_that_pass_nothing_on_hide_no_row_that_depends_on_another() -> None:
    """As a crafted start, or a logistic regression that begins with zeros; the network stays as it is."""
    task, network = make_task(task_settings("logistic")), Shared()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert not independent_rows(FastClipper(network, loss), network, task, ROWS, 1, CPU)
    assert not any(bool(parameter.any()) for parameter in network.parameters())


@pytest.mark.parametrize("type_", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("at_once", [1, 12, 2**22])
def test_a_digest_changes_with_every_bit_and_with_every_place(
    type_: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "AT_ONCE", at_once)
    values = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(1)).to(type_)
    known = _digest(values, 3)
    assert known.shape == (3,)
    assert len(set(known.tolist())) == 3
    monkeypatch.setattr(rows_module, "AT_ONCE", 2**22)
    assert torch.equal(_digest(values, 3), known)
    monkeypatch.setattr(rows_module, "AT_ONCE", at_once)
    assert torch.equal(_digest(values.repeat_interleave(2, 0)[::2], 3), known)
    for place in range(10):
        for bit in range(8 * values.element_size() - 1):
            other = values.clone()
            flat = other[1].view(-1).view(INTEGERS[values.element_size()])
            flat[place] ^= 1 << bit
            assert (_digest(other, 3) == known).tolist() == [True, False, True]
    swapped = values[:, :, [1, 0, 2, 3, 4]]
    assert not (_digest(swapped, 3) == known).any()


def test_a_loss_that_fails_for_one_image_costs_its_patient_only() -> None:
    def picky(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if (targets == 7).any():
            raise ValueError("no such class")
        return cross_entropy(outputs, targets)

    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    parts = parts_of(ROWS)
    strange = [*parts[:2], items(parts[2]["image"], torch.tensor([7])), *parts[3:]]
    found = FastClipper(model, loss_of(picky)).clipped_sum(*grid(strange, ROWS, 1), CLIP)
    expected = FastClipper(model, loss_of(picky)).clipped_sum(*grid([*parts[:2], *parts[3:]], ROWS, 1), CLIP)
    assert torch.isnan(found.norms_l2[2])
    assert torch.allclose(flat(found), flat(expected), atol=1e-12)


def test_a_grid_pads_a_row_with_the_patients_own_image_and_leaves_the_rest_free() -> None:
    first = items(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1, 2, 3]))
    batch, patients = grid([first, items(torch.tensor([[9.0]]), torch.tensor([9]))], 3, 4)
    assert batch["image"].flatten().tolist() == [1, 2, 3, 1, 9, 9, 9, 9, 0, 0, 0, 0]
    assert batch["label"].tolist() == [1, 2, 3, 1, 9, 9, 9, 9, 0, 0, 0, 0]
    assert patients.numbers() == [(0, 0), (1, 0), (2, 0), (4, 1)]
    assert patients.present.tolist() == [True, True, False]
    assert [places_of(images, 6) for images in (1, 2, 3, 4, 5, 6)] == [1, 2, 4, 4, 6, 6]
    assert Patients(torch.tensor([1, 1])).count == 2
    mine, only = alone(batch, patients, 1)
    assert mine["label"].tolist() == [9] * 12
    assert only.of_row == [0, 1, 0]
