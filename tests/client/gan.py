"""A tiny generative adversarial network as a task of two steps; its generator never sees data."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from salus.common.batch import Batch, Field
from salus.common.examples import Example
from salus.common.job import TaskSettings
from salus.common.strict import Strict
from salus.common.tasks.base import Step
from salus.common.transforms.chain import Chain
from salus.common.transforms.intensity import Rescale
from salus.common.transforms.resizing import Resize

SIZE = 4


class Networks(nn.Module):
    """A generator of 8 x 8 images and a discriminator."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(SIZE, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.GroupNorm(2, 6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 1)
        )


class Gan:
    """Non-saturating losses (Goodfellow et al. 2014, arXiv 1406.2661)."""

    Settings = Strict
    steps = (Step("discriminator", "discriminator."), Step("generator", "generator.", data=False))
    headline = ("believed",)
    statistics_size, private_statistics_size = 2, 1

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings
        self.chain = Chain.of((Resize.Settings(), Rescale.Settings()), settings)
        self.spec = {"image": Field((1, 8, 8)), "z": Field((SIZE,), noise=True)}
        self.seen: list[tuple[str, tuple[str, ...], int]] = []

    def prepare(self, example: Example) -> dict[str, torch.Tensor]:
        return {"image": torch.from_numpy(np.ascontiguousarray(example["image"], np.float32))}

    def losses(self, model: Any, batch: Batch, step: Step) -> torch.Tensor:
        self.seen.append((step.name, tuple(sorted(batch)), len(batch)))
        made = model.generator(batch["z"])
        if step.name == "generator":
            return F.softplus(-model.discriminator(made))[:, 0]
        return F.softplus(-model.discriminator(batch["image"]))[:, 0] + F.softplus(model.discriminator(made))[:, 0]

    def infer(self, model: Any, batch: Batch) -> torch.Tensor:
        believed: torch.Tensor = model.discriminator(batch["image"])[:, 0]
        return believed

    def rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return torch.stack([torch.ones(len(batch)), outputs.sigmoid().cpu()], dim=1).double()

    def private_rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return outputs.sigmoid().cpu().double()[:, None]

    def metrics(self, totals: Any) -> dict[str, float]:
        return {"believed": float(totals[1] / totals[0])} if totals[0] else {}
