"""An image row by row: a recurrent network gives a mixture of normals for the next row (Graves 2013, arXiv 1308.0850)."""

import math
from typing import Annotated, Any

from pydantic import Field as Key

from salus.common.batch import Batch, Field
from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.optional_torch import torch
from salus.common.registry import settings_of
from salus.common.tasks.base import Step, full
from salus.common.tasks.generation import Generation, GenerationSettings, normal, one_hot

SPREADS = (0.03, 3.0)  # a pixel's smallest and largest standard deviation: no infinite density, no overflow


class RowSettings(GenerationSettings):
    """Settings of generation row by row.

    Args:
        mixtures: Normal distributions in the mixture of the next row.
        temperature: Factor for the spread of generated pixels; below 1 gives smoother images.
    """

    mixtures: Annotated[int, Key(ge=1, le=64)] = 8  # rows of one place look alike
    temperature: Annotated[float, Key(ge=0, le=2)] = (
        0.5  # independent noise of full size in every pixel looks like grain
    )


class GenerationRnn(Generation):
    """Plane images, from top to bottom."""

    Settings = RowSettings

    def __init__(self, settings: TaskSettings) -> None:
        self.own = settings_of(settings, RowSettings)
        if len(settings.shape) != 2:
            raise JobError(
                f"Expected task.shape with 2 sides for generation row by row, got {list(settings.shape)}.",
                remedy='Use kind = "diffusion", "vae" or "gan" for volumes.',
            )
        super().__init__(settings)

    def noise(self) -> dict[str, Field]:
        """Return nothing: the likelihood of a row is exact."""
        return {}

    def losses(self, model: Any, batch: Batch, step: Step) -> torch.Tensor:
        """Return each item's negative log-likelihood per pixel, without constants."""
        rows = rows_of(batch["image"])
        before = torch.cat([torch.zeros_like(rows[:, :1]), rows[:, :-1]], dim=1)
        outputs = model(before, one_hot(batch["label"], self.classes, rows))
        weights, means, spreads = self._mixture(full(outputs), rows.shape[-1])
        away = ((rows[:, :, None] - means) / spreads).square() / 2 + spreads.log()
        likelihood = torch.logsumexp(torch.log_softmax(weights, dim=2) - away.sum(dim=3), dim=2)
        # The smallest spread is subtracted, so that the loss is not negative.
        return -likelihood.sum(dim=1) / rows[0].numel() - math.log(SPREADS[0])

    def _mixture(self, outputs: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return weights ``[items, rows, mixtures]``, and means and spreads ``[items, rows, mixtures, width]``."""
        count = self.own.mixtures
        weights, means, spreads = torch.split(outputs, [count, count * width, count * width], dim=2)
        shape = (*outputs.shape[:2], count, width)
        low, high = (math.log(spread) for spread in SPREADS)
        logs = low + (high - low) * torch.sigmoid(spreads.reshape(shape))
        return weights, means.reshape(shape), logs.exp()

    def made(self, model: Any, labels: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """Return images, each row drawn given those above it."""
        channels, height, width = self.image_shape
        row = torch.zeros(len(labels), 1, channels * width, device=labels.device)
        classes, state, rows = one_hot(labels, self.classes, row), None, []
        for _ in range(height):
            outputs, state = model.advance(row, classes, state)
            weights, means, spreads = self._mixture(full(outputs), channels * width)
            shares = torch.softmax(weights[:, 0], dim=1).cpu()
            chosen = torch.multinomial(torch.nan_to_num(shares, 1.0) + 1e-9, 1, generator=random).to(labels.device)
            places = chosen[:, :, None].expand(-1, 1, channels * width)
            mean, spread = means[:, 0].gather(1, places), spreads[:, 0].gather(1, places)
            row = mean + self.own.temperature * spread * normal(tuple(mean.shape), random, labels)
            rows.append(row)
        return torch.cat(rows, dim=1).reshape(len(labels), height, channels, width).movedim(1, 2)


def rows_of(images: torch.Tensor) -> torch.Tensor:
    """Return ``[items, height, channels * width]``."""
    return images.movedim(2, 1).flatten(2)
