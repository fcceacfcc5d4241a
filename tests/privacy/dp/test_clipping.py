"""The engine against a plain loop over patients: every layer it knows, every network of the registry, and brute force."""

import itertools
from typing import Any

import pytest
import torch
from tests.privacy.dp.items import batch_of, loss, loss_of
from torch import nn

from salus.common.errors import ProtectionError
from salus.common.job import TaskSettings
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.privacy.dp import layers
from salus.privacy.dp.checks import checked_clipper
from salus.privacy.dp.clipped import ClippedSum, looped_sum
from salus.privacy.dp.clipping import VmapClipper, make_clipper
from salus.privacy.dp.fast import FastClipper
from salus.privacy.dp.patients import Patients

GROUPS = ([0, 1, 2, 3], [0, 1, 0, 2], [1, 0, 1, 1])


def flat(found: ClippedSum) -> torch.Tensor:
    return torch.cat([g.detach().flatten() for g in found.gradients])


def distance(model: nn.Module, clipper: object, x: torch.Tensor, y: torch.Tensor, numbers: list[int]) -> float:
    """Return the relative distance of a clipper's sum and norms from the plain loop's."""
    batch = batch_of(x, y, numbers)
    present = batch[1].present
    clip = float(looped_sum(model, loss, *batch, 1e9).norms_l2[present].median())
    expected = looped_sum(model, loss, *batch, clip)
    found = clipper.clipped_sum(*batch, clip)  # type: ignore[attr-defined]
    a, b = flat(expected), flat(found)
    if expected.norms_l2.shape != found.norms_l2.shape:
        return float((a - b).norm() / a.norm())
    norms = (expected.norms_l2 - found.norms_l2).abs().max() / expected.norms_l2.max()
    return max(float((a - b).norm() / a.norm()), float(norms))


class Head(nn.Module):
    """Any layer, then the mean over what is left, then a linear classifier."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.last = layer, nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.tanh(self.layer(x))
        z = z.flatten(2).mean(2) if z.dim() > 2 else z
        result: torch.Tensor = self.last(z)
        return result


LAYERS = {
    "conv1d": (nn.Conv1d(2, 4, 3, padding=1), (2, 9), 4),
    "conv1d dilated": (nn.Conv1d(2, 4, 3, stride=2, dilation=2), (2, 12), 4),
    "conv2d": (nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False), (2, 8, 7), 4),
    "conv2d wide, few positions": (nn.Conv2d(24, 32, 3), (24, 4, 4), 32),
    "conv2d groups": (nn.Conv2d(4, 6, 3, groups=2), (4, 6, 6), 6),
    "conv2d 1x1": (nn.Conv2d(32, 40, 1), (32, 2, 2), 40),
    "conv3d": (nn.Conv3d(2, 4, 3, padding=1), (2, 4, 5, 4), 4),
    "conv3d wide, few positions": (nn.Conv3d(8, 24, 3, stride=2, dilation=1), (8, 4, 4, 4), 24),
    "transposed 1d": (nn.ConvTranspose1d(3, 4, 3, stride=2), (3, 5), 4),
    "transposed 2d": (nn.ConvTranspose2d(3, 4, 2, stride=2, output_padding=1, bias=False), (3, 5, 5), 4),
    "transposed 3d": (nn.ConvTranspose3d(3, 4, 2, stride=2), (3, 3, 3, 3), 4),
    "linear": (nn.Linear(5, 4), (5,), 4),
    "linear wide": (nn.Linear(64, 80), (64,), 80),
    "group norm": (nn.GroupNorm(2, 6), (6, 5, 5), 6),
    "instance norm": (nn.InstanceNorm2d(6, affine=True), (6, 5, 5), 6),
    "layer norm": (nn.LayerNorm([4, 6]), (3, 4, 6), 3),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("numbers", GROUPS, ids=str)
def test_every_known_layer_agrees_with_the_loop(name: str, numbers: list[int]) -> None:
    layer, shape, width = LAYERS[name]
    torch.manual_seed(1)
    model = Head(layer, width).double()
    x = torch.randn(4, *shape, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 1])
    clipper = make_clipper(model, loss)
    assert isinstance(clipper, FastClipper)
    assert distance(model, clipper, x, y, numbers) < 1e-9


class Runs(nn.Module):
    """One layer that sees the same image twice, as a discriminator sees real and made ones."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.head = Head(layer, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(x) - self.head(torch.sin(x) * 0.5)
        return result


class Frames(nn.Module):
    """All frames of an item are flattened into the batch, and their mean is classified."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.last = layer, nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = torch.stack([x, x * -0.5, torch.sin(x)], dim=1).flatten(0, 1)
        z = torch.tanh(self.layer(frames)).flatten(2).mean(2) if x.dim() > 2 else torch.tanh(self.layer(frames))
        result: torch.Tensor = self.last(z.reshape(len(x), 3, -1).mean(1))
        return result


@pytest.mark.parametrize("shape_of_it", [Runs, Frames])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("numbers", GROUPS[1:], ids=str)
def test_layers_that_run_twice_and_flattened_frames_are_fast_too(
    name: str, numbers: list[int], shape_of_it: type[Runs] | type[Frames]
) -> None:
    layer, shape, width = LAYERS[name]
    torch.manual_seed(1)
    model = shape_of_it(layer, width).double()
    x = torch.randn(4, *shape, dtype=torch.float64)
    assert distance(model, FastClipper(model, loss), x, torch.tensor([0, 1, 2, 1]), numbers) < 1e-9


def test_runs_of_one_layer_are_added_before_their_norm_is_taken() -> None:
    """A mutant that takes the norm of each run by itself: two runs that cancel would look large, and two equal ones small."""
    torch.manual_seed(1)
    model = Runs(nn.Linear(5, 4), 4).double()
    x, y = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 1])

    class EachByItself(FastClipper):
        def _collect(self, batch, patients):  # type: ignore[no-untyped-def]
            collected = super()._collect(batch, patients)
            for part in collected.values():
                part.squared_norms = part.squared_norms / 2
            return collected

    assert distance(model, EachByItself(model, loss), x, y, [0, 1, 2, 2]) > 0.01


@pytest.mark.parametrize("padding", [None, 2])
def test_an_embedding_that_runs_twice(padding: int | None) -> None:
    torch.manual_seed(1)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.last = nn.Embedding(7, 5, padding_idx=padding), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.last(torch.tanh(self.words(x)).mean(1) + self.words(x.flip(1) // 2).mean(1))
            return result

    model = Both().double()
    x = torch.tensor([[1, 2, 2, 3], [2, 2, 5, 6], [1, 1, 1, 1], [0, 2, 4, 6]])
    for numbers in GROUPS:
        assert distance(model, FastClipper(model, loss), x, torch.tensor([0, 1, 2, 1]), numbers) < 1e-9


def test_rows_that_belong_to_no_item_go_to_the_fallback() -> None:
    """A layer that sees positions instead of items; four positions and four images look alike."""

    class Positions(nn.Module):
        def __init__(self, places: int) -> None:
            super().__init__()
            self.places, self.last = nn.Embedding(places, 64), nn.Linear(64, 2)
            self.numbers = list(range(places))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            where = self.places(torch.tensor(self.numbers)).mean(0)
            result: torch.Tensor = self.last(torch.tanh(x.flatten(1) + where))
            return result

    task = make_task(settings("logistic"))
    for places in (3, 8, 16):
        assert isinstance(checked_clipper(Positions(places), task), VmapClipper)


@pytest.mark.parametrize("frozen", ["0", "2", "2.bias"])
def test_frozen_parameters_are_neither_clipped_nor_summed(frozen: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    everything = looped_sum(model, loss, *batch_of(x, y, [0, 1, 2, 2]), 0.3)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    clipper = make_clipper(model, loss)
    assert isinstance(clipper, VmapClipper if frozen == "2.bias" else FastClipper)
    assert distance(model, clipper, x, y, [0, 1, 2, 2]) < 1e-9
    found = clipper.clipped_sum(*batch_of(x, y, [0, 1, 2, 2]), 0.3)
    assert [g.shape for g in found.gradients] == [p.shape for p in model.parameters() if p.requires_grad]
    assert bool((found.norms_l2[:3] < everything.norms_l2[:3]).all())


def test_a_parameter_that_the_loss_never_reaches_is_refused_by_name() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.never = nn.Linear(64, 2), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.last(x.flatten(1))
            return result

    model, task = Idle(), make_task(settings("logistic"))
    with pytest.raises(ProtectionError, match=r"'never\.weight'"):
        checked_clipper(model, task)
    model.never.requires_grad_(False)
    assert isinstance(checked_clipper(model, task), FastClipper)


@pytest.mark.parametrize("padding", [None, 2])
def test_embeddings_agree_with_the_loop(padding: int | None) -> None:
    torch.manual_seed(1)

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(7, 5, padding_idx=padding)
            self.last = nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.last(self.words(x).mean(1))
            return result

    model = Text().double()
    x = torch.tensor([[1, 2, 2, 3], [2, 2, 5, 6], [1, 1, 1, 1], [0, 2, 4, 6]])
    for numbers in GROUPS:
        assert distance(model, FastClipper(model, loss), x, torch.tensor([0, 1, 2, 1]), numbers) < 1e-9


class Unknown(nn.Module):
    """A parameter outside any known layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.last = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(torch.tanh(x * self.scale))
        return result


def test_unknown_layers_and_shared_weights_take_the_fallback_which_agrees_too() -> None:
    torch.manual_seed(0)
    tied = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 3))
    tied[2].weight = tied[0].weight
    for model in (Unknown().double(), tied.double()):
        clipper = make_clipper(model, loss)
        assert isinstance(clipper, VmapClipper)
        x = torch.randn(4, 6, dtype=torch.float64)
        for numbers in GROUPS:
            assert distance(model, clipper, x, torch.tensor([0, 1, 2, 1]), numbers) < 1e-9


def settings(model: str) -> TaskSettings:
    side = 32 if model == "densenet121" else 8
    return TaskSettings(kind="classification", model=model, dataset="d", classes=("a", "b"), shape=(side, side))


def test_a_patient_with_a_broken_image_adds_nothing_and_the_others_stay() -> None:
    model = build_model(settings("cnn"), 0).double()
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0])
    broken = x.clone()
    broken[2] = float("nan")
    for make in (FastClipper, VmapClipper):
        found = make(model, loss).clipped_sum(*batch_of(broken, y, [0, 1, 2, 2]), 0.3)
        expected = looped_sum(model, loss, *batch_of(x[:2], y[:2], [0, 1]), 0.3)
        assert torch.allclose(flat(found), flat(expected), atol=1e-10)
        assert not torch.isfinite(found.norms_l2[2])


def largest_change(model: nn.Module, clipper: object, x: torch.Tensor, y: torch.Tensor, clip: float) -> float:
    """Return the largest change of the clipped sum over every subset of three patients and every one left out."""
    numbers = [0, 0, 1, 2, 2, 2]

    def total(kept: tuple[int, ...]) -> torch.Tensor:
        images = [i for i, p in enumerate(numbers) if p in kept]
        if not images:
            return torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
        batch = batch_of(x[images], y[images], [numbers[i] for i in images])
        return flat(clipper.clipped_sum(*batch, clip))  # type: ignore[attr-defined]

    changes = []
    for size in range(1, 4):
        for kept in itertools.combinations(range(3), size):
            for gone in kept:
                changes.append(float((total(kept) - total(tuple(p for p in kept if p != gone))).norm()))
    return max(changes)


@pytest.fixture
def toy() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    model = build_model(settings("cnn"), 0).double()
    return model, torch.randn(6, 1, 8, 8, dtype=torch.float64) * 4, torch.tensor([0, 1, 1, 0, 1, 1])


def test_the_largest_change_by_one_patient_is_the_clip_norm_exactly(
    toy: tuple[nn.Module, torch.Tensor, torch.Tensor],
) -> None:
    model, x, y = toy
    for clipper in (FastClipper(model, loss), VmapClipper(model, loss)):
        assert largest_change(model, clipper, x, y, 0.01) == pytest.approx(0.01, rel=1e-9)


class ImageInsteadOfPatient(FastClipper):
    """Mutant: every image is clipped as if it were a patient."""

    def clipped_sum(self, batch, patients, clip_norm_l2):  # type: ignore[no-untyped-def]
        places = [place for place, _ in patients.numbers()]
        each = Patients(torch.ones(len(places), dtype=torch.long))
        return super().clipped_sum(batch.rows(torch.tensor(places)), each, clip_norm_l2)


class ClipAfterAveraging(FastClipper):
    """Mutant: the whole batch is clipped at once, to its number of patients times the clip norm."""

    def clipped_sum(self, batch, patients, clip_norm_l2):  # type: ignore[no-untyped-def]
        places = [place for place, _ in patients.numbers()]
        one = Patients(torch.tensor([len(places)]), len(places))
        return super().clipped_sum(batch.rows(torch.tensor(places)), one, int(patients.present.sum()) * clip_norm_l2)


class OneLayerNotClipped(FastClipper):
    """Mutant: the last layer is forgotten in the norm."""

    def _collect(self, batch, patients):  # type: ignore[no-untyped-def]
        collected = super()._collect(batch, patients)
        last = list(collected)[0]  # noqa: RUF015
        collected[last].squared_norms = torch.zeros_like(collected[last].squared_norms)
        return collected


@pytest.mark.parametrize("mutant", [ImageInsteadOfPatient, ClipAfterAveraging, OneLayerNotClipped])
def test_broken_clipping_is_caught(
    mutant: type[FastClipper], toy: tuple[nn.Module, torch.Tensor, torch.Tensor]
) -> None:
    model, x, y = toy
    broken = mutant(model, loss)
    assert (
        largest_change(model, broken, x, y, 0.01) > 0.0101 or distance(model, broken, x, y, [0, 0, 1, 2, 2, 2]) > 0.01
    )
    assert distance(model, broken, x, y, [0, 0, 1, 2, 2, 2]) > 1e-3


def test_a_model_made_to_cancel_the_ghost_norm_moves_nothing_beyond_the_clip_norm() -> None:
    """Found by a review: large constant activations under GroupNorm let Gram matrices cancel to a norm of nothing, while the
    gradient that was added had a norm of 657 776."""
    task = TaskSettings(kind="classification", model="resnet18", dataset="d", classes=("a", "b"), shape=(32, 32))
    model: Any = build_model(task, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.layer3[1].bn2.bias.fill_(1e5)
        for block in model.layer4:  # only the shortcut is left
            block.bn2.weight.zero_()
        shortcut, norm = model.layer4[0].downsample[0], model.layer4[0].downsample[1]
        width = 512 // norm.num_groups
        rows = torch.randn(norm.num_groups, 256, generator=generator) * 1e-2
        rows -= rows.mean(1, keepdim=True)  # blind to the constant
        shortcut.weight.copy_(rows.repeat_interleave(width, 0)[:, :, None, None])
        model.fc.weight.copy_(torch.randn(2, norm.num_groups, generator=generator).repeat_interleave(width, 1) * 1e3)
    x, y = torch.randn(4, 1, 32, 32, generator=generator).clamp(-1, 1), torch.tensor([0, 1, 1, 0])

    sizes = []
    for image in range(4):
        found = FastClipper(model, loss).clipped_sum(*batch_of(x[image : image + 1], y[image : image + 1], [0], 0), 1.0)
        sizes.append(float(flat(found).norm()))
        assert sizes[-1] <= 1 + 2.0**-12
    assert max(sizes) > 0.99


@pytest.mark.parametrize("positions", [4, 40])
def test_a_ghost_norm_that_cancels_is_never_below_the_gradient(positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output gradients that sum to zero over positions of nearly the same input."""
    torch.manual_seed(2)
    layer = nn.Linear(256, 256, bias=False)
    inputs = torch.full((2, positions, 256), 1e4) + torch.randn(2, positions, 256) * 1e-8
    gradient = torch.randn(2, positions, 256)
    gradient -= gradient.mean(1, keepdim=True)

    def worst() -> float:
        """Return the largest ratio of what a patient adds to the norm it is believed to have."""
        found = layers.passed(layer, inputs, gradient, Patients(torch.tensor([1, 1])))
        ratios = []
        for patient in range(2):
            alone = torch.zeros(2, dtype=torch.float64)
            alone[patient] = 1.0
            added = float(found.weighted(alone)[layer.weight].norm())
            ratios.append(added / max(1e-300, float(found.squared_norms[patient].sqrt())))
        return max(ratios)

    assert worst() <= 1 + 2.0**-40

    def rounded(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """A mutant: Gram matrices in single precision."""
        return (torch.bmm(a, a.mT).double() * torch.bmm(b, b.mT).double()).sum((1, 2)).clamp(min=0)

    monkeypatch.setattr(layers, "ghost_norms", rounded)
    assert worst() > 1.05


def test_tiny_gradients_do_not_escape_a_tiny_clip_norm() -> None:
    """Found by a review: squares of 1e-26 vanish in single precision, and a norm of nothing was never clipped."""
    layer = nn.Linear(4, 2)
    x = torch.full((2, 4), 1e-13)

    def tiny(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum(1) * 1e-13

    for make in (FastClipper, VmapClipper):
        found = make(layer, loss_of(tiny)).clipped_sum(*batch_of(x, torch.tensor([0, 1]), [0, 1]), 1e-29)
        size = float(flat(found).norm())
        assert size <= 2e-29 * 1.001
