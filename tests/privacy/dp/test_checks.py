"""What would break the guarantee in silence is refused before the first step."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from salus.common.errors import ProtectionError
from salus.common.job import TaskSettings
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


def test_statistics_that_are_shared_in_training_only_are_refused() -> None:
    class Centre(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(dim=0, keepdim=True) if self.training else x

    with pytest.raises(ProtectionError, match="depends on the others"):
        checked_clipper(network(Centre()), Classification(SETTINGS))


class Weighted(Classification):
    """Class weights divide by the weights of the whole batch."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets, weight=torch.tensor([1.0, 5.0], dtype=outputs.dtype))


class BatchDice(Classification):
    """Dice over the whole batch, as MONAI's with ``batch=True``."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        p = torch.softmax(outputs, 1)
        wanted = F.one_hot(targets, 2).to(p.dtype)
        return 1 - (2 * (p * wanted).sum(0) / (p + wanted).sum(0)).mean()


class Summed(Classification):
    """A sum instead of a mean."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets, reduction="sum")


class Hardest(Classification):
    """The mean of the hardest eight items: right for batches of up to eight, coupled beyond."""

    hardest = 8

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = F.cross_entropy(outputs, targets, reduction="none")
        return losses.topk(min(self.hardest, len(losses))).values.mean()


class HardestHalf(Classification):
    """Half of each batch."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = F.cross_entropy(outputs, targets, reduction="none")
        return losses.topk(-(-len(losses) // 2)).values.mean()


class RelativeToTheLargest(Classification):
    """The value is the mean of the items' losses; the gradient of one item depends on the others."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = F.cross_entropy(outputs, targets, reduction="none")
        weights = 1 + (losses - losses.mean()).detach()
        return (losses * weights).mean() + (losses.detach() * (1 - weights)).mean()


COUPLED = [Weighted, BatchDice, Summed, Hardest, HardestHalf, RelativeToTheLargest]


@pytest.mark.parametrize("task", COUPLED)
def test_losses_that_couple_patients_are_refused(task: type[Classification]) -> None:
    with pytest.raises(ProtectionError, match="not the mean of the losses"):
        checked_clipper(network(), task(SETTINGS))


def test_dropout_is_allowed() -> None:
    checked_clipper(network(nn.Dropout(0.5)), Classification(SETTINGS))


def test_a_coupled_loss_that_no_check_finds_cannot_couple_patients() -> None:
    """The mean of the hardest hundred items is an ordinary mean in every batch that is tried."""

    class HardestHundred(Hardest):
        hardest = 100

    task = HardestHundred(SETTINGS)
    clipper = checked_clipper(network(), task)
    x, y = task.example(128)
    parts = [(x[i : i + 1], y[i : i + 1]) for i in range(128)]
    whole = clipper.clipped_sum(*grid(parts, 128, 1), 1e9)
    assert bool((whole.norms_l2 > 0).all())
    plain = FastClipper(clipper._model, F.cross_entropy).clipped_sum(*grid(parts, 128, 1), 1e9)  # type: ignore[attr-defined]
    assert torch.equal(whole.norms_l2, plain.norms_l2)


def test_a_network_that_couples_large_batches_only_is_refused() -> None:
    class Centre(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(dim=0, keepdim=True) if len(x) > 4 else x

    with pytest.raises(ProtectionError, match="depends on the others"):
        checked_clipper(network(Centre()), Classification(SETTINGS))
