"""What would break the guarantee in silence is refused before the first step."""

import functools

import pytest
import torch
import torch.nn.functional as F
from tests.privacy.dp.items import cross_entropy
from torch import nn

from salus.common.batch import Batch, example_batch
from salus.common.errors import ProtectionError
from salus.common.job import TaskSettings
from salus.common.tasks.base import Step
from salus.common.tasks.classification import Classification
from salus.privacy.dp.checks import checked_clipper
from salus.privacy.dp.fast import FastClipper
from salus.privacy.dp.patients import grid

SETTINGS = TaskSettings(kind="classification", model="cnn", dataset="d", classes=("a", "b"), shape=(8, 8))


def network(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), *layers, nn.Flatten(), nn.Linear(4 * 36, 2))


def test_batchnorm_is_refused_with_its_replacement() -> None:
    with pytest.raises(ProtectionError, match="GroupNorm"):
        checked_clipper(network(nn.BatchNorm2d(4)), Classification(SETTINGS))
    with pytest.raises(ProtectionError, match="GroupNorm"):
        checked_clipper(network(nn.BatchNorm2d(4, track_running_stats=False)), Classification(SETTINGS))


def test_hand_made_batch_statistics_are_refused() -> None:
    class Centre(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(dim=0, keepdim=True)

    with pytest.raises(ProtectionError, match="depends on the others"):
        checked_clipper(network(Centre()), Classification(SETTINGS))


class MeanOfBatch(nn.Module):
    """Adds the mean of the batch, times a factor that may be zero at first."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((1,), factor))

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return given + self.factor * given.mean(0, keepdim=True)


@pytest.mark.parametrize(("factor", "bias"), [(0.0, 0.0), (1.0, -1e4), (1e-9, 0.0), (float("nan"), 0.0)])
def test_parameters_that_hide_a_coupling_from_the_check_do_not_help(factor: float, bias: float) -> None:
    """A start may be crafted so that nothing passes for the inputs of the check, which are known."""
    first = nn.Linear(64, 8)
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), MeanOfBatch(factor), nn.Linear(8, 2))
    with torch.no_grad():
        first.bias.fill_(bias)
    with pytest.raises(ProtectionError, match="depends on the others"):
        checked_clipper(model, Classification(SETTINGS))
    assert float(first.bias.detach()[0]) == bias, "the network itself is unchanged"


def test_statistics_that_are_shared_in_training_only_are_refused() -> None:
    class Centre(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(dim=0, keepdim=True) if self.training else x

    with pytest.raises(ProtectionError, match="depends on the others"):
        checked_clipper(network(Centre()), Classification(SETTINGS))


class Coupled(Classification):
    """A loss from the outputs and labels of the whole batch."""

    def losses(self, model: nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        return self.coupled(model(batch["image"]), batch["label"])

    def coupled(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Weighted(Coupled):
    """Class weights divide by the weights of the whole batch."""

    def coupled(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        weight = torch.tensor([1.0, 5.0], dtype=outputs.dtype)
        return F.cross_entropy(outputs, targets, weight=weight, reduction="none") / weight[targets].mean()


class BatchDice(Coupled):
    """Dice over the whole batch, as MONAI's with ``batch=True``."""

    def coupled(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        p = torch.softmax(outputs, 1)
        wanted = F.one_hot(targets, 2).to(p.dtype)
        return (1 - (2 * (p * wanted).sum(0) / (p + wanted).sum(0)).mean()).expand(len(outputs))


class Mean(Coupled):
    """The mean of the batch instead of each item's loss."""

    def coupled(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets)


class MeanForAll(Coupled):
    """The mean of the batch in place of each item's loss: the gradient of the sum is right, that of an item is not."""

    def coupled(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets).expand(len(outputs))


class Cox(Coupled):
    """Cox's partial likelihood: who is at risk is a set of patients."""

    def coupled(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        risk = outputs[:, 0]
        return torch.logcumsumexp(risk, 0) - risk


class Hardest(Coupled):
    """The hardest eight items: right for batches of up to eight, coupled beyond."""

    hardest = 8

    def coupled(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = cross_entropy(outputs, targets)
        kept = torch.zeros_like(losses)
        kept[losses.detach().topk(min(self.hardest, len(losses))).indices] = 1
        return losses * kept


class HardestHalf(Coupled):
    """Half of each batch."""

    def coupled(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = cross_entropy(outputs, targets)
        return losses * (losses >= losses.detach().median())


class RelativeToTheLargest(Coupled):
    """The values are the items' own losses; the gradient of one item depends on the others."""

    def coupled(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = cross_entropy(outputs, targets)
        weights = 1 + (losses - losses.mean()).detach()
        return losses * weights + losses.detach() * (1 - weights)


class OthersGradient(Coupled):
    """The values are the items' own losses, and so is the gradient of their sum; one item's gradient is its neighbour's."""

    def coupled(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = cross_entropy(outputs, targets)
        return losses.detach() + losses.roll(1) - losses.detach().roll(1)


COUPLED = [
    Weighted, BatchDice, Mean, MeanForAll, Cox, Hardest, HardestHalf, RelativeToTheLargest, OthersGradient,
]  # fmt: skip


@pytest.mark.parametrize("task", COUPLED)
def test_losses_that_couple_patients_are_refused(task: type[Classification]) -> None:
    with pytest.raises(ProtectionError, match="depends on other items"):
        checked_clipper(network(), task(SETTINGS))


def test_dropout_is_allowed() -> None:
    checked_clipper(network(nn.Dropout(0.5)), Classification(SETTINGS))


def test_a_coupled_loss_that_no_check_finds_cannot_couple_patients() -> None:
    """The mean of the hardest hundred items is an ordinary mean in every batch that is tried."""

    class HardestHundred(Hardest):
        hardest = 100

    task = HardestHundred(SETTINGS)
    clipper = checked_clipper(network(), task)
    batch = example_batch(task.spec, 128)
    parts = [batch.rows(slice(i, i + 1)) for i in range(128)]
    whole = clipper.clipped_sum(*grid(parts, 128, 1), 1e9)
    assert bool((whole.norms_l2 > 0).all())
    own = Classification(SETTINGS)
    plain = FastClipper(clipper._model, functools.partial(own.losses, step=own.steps[0]))  # type: ignore[attr-defined]
    assert torch.equal(whole.norms_l2, plain.clipped_sum(*grid(parts, 128, 1), 1e9).norms_l2)


def test_a_network_that_couples_large_batches_only_is_refused() -> None:
    class Centre(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(dim=0, keepdim=True) if len(x) > 4 else x

    with pytest.raises(ProtectionError, match="depends on the others"):
        checked_clipper(network(Centre()), Classification(SETTINGS))
