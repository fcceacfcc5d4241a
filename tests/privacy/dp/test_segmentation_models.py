"""Clipping of every network for segmentation: the engine agrees with a plain loop over patients, and which engine it is."""

from typing import Any

import pytest
import torch

from salus.common.job import TaskSettings
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.privacy.dp.checks import checked_clipper
from salus.privacy.dp.clipping import VmapClipper
from salus.privacy.dp.fast import FastClipper

CASES: list[tuple[str, tuple[int, ...], dict[str, Any], type]] = [
    ("unet", (8, 12), {"widths": (4, 8, 8)}, FastClipper),
    ("unet", (5, 6, 7), {"widths": (2, 4), "first_stride": 2, "coordinates": True}, FastClipper),
    ("unet", (8, 12), {"widths": (4, 8, 8), "deep_supervision": True}, FastClipper),
    ("fcn", (8, 10), {"widths": (4, 8, 8)}, FastClipper),
    ("filter-bank", (8, 10), {"hidden": (4, 4)}, FastClipper),
    ("filter-bank", (5, 6, 7), {"place_powers": 2}, FastClipper),
    ("attention-unet", (8, 10), {"widths": (4, 8)}, FastClipper),
    ("segresnet", (9, 8), {"blocks": (1, 1)}, FastClipper),
    ("segresnet", (8, 8), {"blocks": (1, 1, 1), "deep_supervision": True}, FastClipper),
    ("unetr", (32, 32), {"hidden_size": 8, "heads": 1, "mlp_size": 8, "first_width": 2}, VmapClipper),
]
LARGE = [pytest.param("vnet", (16, 16), {}, FastClipper, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("model", "shape", "own", "engine"), [*CASES, *LARGE])
def test_the_engine_of_every_network_agrees_with_a_loop(
    model: str, shape: tuple[int, ...], own: dict[str, Any], engine: type
) -> None:
    settings = TaskSettings(kind="segmentation", model=model, dataset="d", classes=("a", "b"), shape=shape, **own)
    clipper = checked_clipper(build_model(settings, 0), make_task(settings))  # raises unless it agrees
    assert isinstance(clipper, engine)


@pytest.mark.parametrize("loss", ["cross-entropy", "dice", "dice-ce", "focal", "generalised-dice", "tversky"])
def test_every_loss_is_accepted_by_the_check_for_coupled_patients(loss: str) -> None:
    settings = TaskSettings(
        kind="segmentation", model="unet", dataset="d", classes=("a",), shape=(8, 8), widths=(2, 4), loss=loss
    )
    assert isinstance(checked_clipper(build_model(settings, 0), make_task(settings)), FastClipper)


def test_a_dice_over_the_batch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from salus.common.errors import ProtectionError
    from salus.common.losses.dice import Dice

    def over_the_batch(self: Dice, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        chances = logits.sigmoid()
        return (1 - 2 * (chances * wanted).sum() / (chances.sum() + wanted.sum() + 1)).expand(len(logits))

    monkeypatch.setattr(Dice, "__call__", over_the_batch)
    settings = TaskSettings(
        kind="segmentation", model="unet", dataset="d", classes=("a",), shape=(8, 8), widths=(2, 4), loss="dice"
    )
    with pytest.raises(ProtectionError):
        checked_clipper(build_model(settings, 0), make_task(settings))
