"""A conditional variational autoencoder (Kingma and Welling 2014, arXiv 1312.6114; Sohn et al. 2015).

Its noise is a field of the batch, so that an item's loss is a function of the item.
"""

from typing import Annotated, Any

from pydantic import Field as Key

from salus.common.batch import Batch, Field
from salus.common.job import TaskSettings
from salus.common.optional_torch import torch
from salus.common.registry import settings_of
from salus.common.tasks.base import Step, full
from salus.common.tasks.generation import Generation, GenerationSettings, normal, one_hot, with_class

MOST_LOG_VARIANCE = 8.0  # beyond it, a diverging encoder would give infinite losses


class VaeSettings(GenerationSettings):
    """Settings of the variational autoencoder.

    Args:
        latent_size: Numbers from which an image is made.
        pixel_spread: Standard deviation by which a pixel may differ from the rebuilt one; smaller is sharper, and lets images
            depend more on noise that no image ever had.
    """

    latent_size: Annotated[int, Key(ge=1, le=1024)] = 16  # small images vary in few ways
    pixel_spread: Annotated[float, Key(ge=0.01, le=10)] = 0.2  # a tenth of the range -1 .. 1


class Vae(Generation):
    """Images from normal numbers and a class."""

    Settings = VaeSettings

    def __init__(self, settings: TaskSettings) -> None:
        self.own = settings_of(settings, VaeSettings)
        super().__init__(settings)

    def noise(self) -> dict[str, Field]:
        """Return the numbers by which a code deviates from its mean."""
        return {"z": Field((self.own.latent_size,), noise=True)}

    def losses(self, model: Any, batch: Batch, step: Step) -> torch.Tensor:
        """Return each item's negative evidence lower bound, without constants, per pixel."""
        images, labels = batch["image"], batch["label"]
        code = full(model.encoder(with_class(images, labels, self.classes)))
        mean, log_variance = code.chunk(2, dim=1)
        log_variance = MOST_LOG_VARIANCE * torch.tanh(log_variance / MOST_LOG_VARIANCE)
        z = mean + torch.exp(log_variance / 2) * batch["z"]
        rebuilt = full(model.decoder(torch.cat([z, one_hot(labels, self.classes, z)], dim=1)))
        error = (rebuilt - images).square().flatten(1).sum(dim=1) / (2 * self.own.pixel_spread**2)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
        return (error + divergence) / images[0].numel()

    def made(self, model: Any, labels: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """Return the mean images of random codes."""
        z = normal((len(labels), self.own.latent_size), random, labels)
        images: torch.Tensor = model.decoder(torch.cat([z, one_hot(labels, self.classes, z)], dim=1))
        return images
