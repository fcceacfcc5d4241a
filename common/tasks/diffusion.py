"""Denoising diffusion (Ho et al. 2020, arXiv 2006.11239) in continuous time (Kingma et al. 2021, arXiv 2107.00630).

The network predicts the velocity (Salimans and Ho 2022, arXiv 2202.00512), which stays well defined at any noise, so that few
steps of DDIM (Song et al. 2020, arXiv 2010.02502) suffice. Time and noise are fields of the batch.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field as Key
from pydantic import model_validator

from salus.common.batch import Batch, Field
from salus.common.job import TaskSettings
from salus.common.optional_torch import torch
from salus.common.registry import settings_of
from salus.common.tasks.base import Step, full
from salus.common.tasks.generation import Generation, GenerationSettings, normal

LARGEST_ANGLE = 0.99 * math.pi / 2  # of the cosine schedule: some of the image is always left
BETAS = (0.1, 20.0)  # of the linear schedule, per unit of time (Song et al. 2021, arXiv 2011.13456, equation 32)


MOST_PASSES = 100_000  # of the network for the images that score one model: hours on a slow machine


class DiffusionSettings(GenerationSettings):
    """Settings of diffusion.

    Args:
        schedule: How noise grows with time.
        sampling_steps: Passes of the network to make one image.
        largest_value: Values of a finished image are cut to at most this, either side of 0.
    """

    schedule: Literal["cosine", "linear"] = "cosine"  # better for small images (Nichol and Dhariwal 2021)
    sampling_steps: Annotated[int, Key(ge=1, le=1000)] = 20  # more improve little with DDIM
    largest_value: Annotated[float, Key(gt=0, le=1000)] = 1.0  # what the usual `rescale` gives

    @model_validator(mode="after")
    def _made_in_time(self) -> Self:
        if self.score_images * self.sampling_steps > MOST_PASSES:
            raise ValueError(f"expected score_images times sampling_steps of at most {MOST_PASSES}")
        return self


class Diffusion(Generation):
    """Images from noise, step by step."""

    Settings = DiffusionSettings

    def __init__(self, settings: TaskSettings) -> None:
        self.own = settings_of(settings, DiffusionSettings)
        super().__init__(settings)

    def noise(self) -> dict[str, Field]:
        """Return the noise, and a number that decides the time."""
        return {"noise": Field(self.image_shape, noise=True), "drawn": Field((1,), noise=True)}

    def _mixed(self, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the shares of image and noise at times from 0 to 1; their squares add up to 1."""
        if self.own.schedule == "cosine":
            return torch.cos(time * LARGEST_ANGLE), torch.sin(time * LARGEST_ANGLE)
        low, high = BETAS
        image = torch.exp(-(time**2) * (high - low) / 4 - time * low / 2)
        return image, (1 - image**2).clamp(min=0).sqrt()

    def losses(self, model: Any, batch: Batch, step: Step) -> torch.Tensor:
        """Return each item's mean squared error of the velocity."""
        images, noise = batch["image"], batch["noise"]
        time = torch.special.ndtr(batch["drawn"][:, 0])
        image, rest = (share.reshape(-1, *[1] * (images.dim() - 1)) for share in self._mixed(time))
        found = full(model(image * images + rest * noise, time, batch["label"]))
        return (found - (image * noise - rest * images)).square().flatten(1).mean(dim=1)

    def made(self, model: Any, labels: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """Return images after DDIM's steps, which are deterministic but for the noise they start from."""
        x = normal((len(labels), *self.image_shape), random, labels)
        finished, limit = x, self.own.largest_value
        for number in range(self.own.sampling_steps, 0, -1):
            time = torch.full((len(labels),), number / self.own.sampling_steps, device=labels.device)
            following = torch.full_like(time, (number - 1) / self.own.sampling_steps)
            (image, rest), (next_image, next_rest) = (
                [float(share[0]) for share in self._mixed(at)] for at in (time, following)
            )
            velocity = full(model(x, time, labels))
            finished = (image * x - rest * velocity).clamp(-limit, limit)
            noise = (x - image * finished) / max(rest, 1e-4)
            x = next_image * finished + next_rest * noise
        return finished
