"""Sample jobs for recognition: one for each network, several findings in a picture, and one with noise."""

from pathlib import Path
from typing import Any

from tests.builders import write_npz
from tests.common.models.test_recognition_models import TINY
from tests.tiny import Tiny, Writer

from salus.simulations.samples import write_samples

SMALL: dict[str, dict[str, Any]] = {**TINY, "resnet18": {"widths": [2, 2, 4, 4]}}


def pictures(folder: Path, own: dict[str, Any]) -> Tiny:
    change = {"task.classes": ["0", "1"], "task.shape": [8, 8], **{f"task.{key}": value for key, value in own.items()}}
    data = write_npz(folder / "toy.npz", images=60)
    return Tiny(data, change={"task.class_weights": None, **change}, metric="auc")


def of(model: str) -> Writer:
    return lambda folder: pictures(folder, SMALL.get(model, {}))


def findings(folder: Path) -> Tiny:
    data = write_samples(folder / "p", ("findings",), patients=60, seed=0, side=16)["findings"]
    return Tiny(data, change={"task.shape": [8, 8], "task.widths": [4, 8], "training.local_epochs": 1}, metric="auc")


MODELS = ("convnext", "densenet", "efficientnet", "inception", "resnet18", "resnet50", "vgg", "vit")
JOBS: dict[str, Writer] = {
    **{f"recognition-{model}.toml": of(model) for model in MODELS},
    "recognition-private.toml": lambda folder: pictures(folder, {"widths": [4, 8], "hidden": 8}),
    "recognition-findings.toml": findings,
}
