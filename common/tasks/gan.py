"""A conditional generative adversarial network (Goodfellow et al. 2014, arXiv 1406.2661; Mirza et al. 2014, arXiv 1411.1784).

Only the discriminator reads patients' data, so with noise only its gradients are clipped, noised and charged (Xie et al. 2018,
arXiv 1802.06739); what the generator learns, it learns from the discriminator.
"""

from typing import Annotated, Any

from pydantic import Field as Key

from salus.common.batch import Batch, Field
from salus.common.job import TaskSettings
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import torch
from salus.common.registry import settings_of
from salus.common.tasks.base import Step, full
from salus.common.tasks.generation import Generation, GenerationSettings, normal, one_hot, with_class


class GanSettings(GenerationSettings):
    """Settings of the generative adversarial network.

    Args:
        latent_size: Numbers from which an image is made.
    """

    latent_size: Annotated[int, Key(ge=1, le=1024)] = 16  # small images vary in few ways


class Gan(Generation):
    """Two networks with the non-saturating losses: each step of the discriminator is followed by one of the generator."""

    Settings = GanSettings
    steps = (Step("discriminator", "discriminator."), Step("generator", "generator.", data=False))

    def __init__(self, settings: TaskSettings) -> None:
        self.own = settings_of(settings, GanSettings)
        super().__init__(settings)

    def noise(self) -> dict[str, Field]:
        """Return the numbers from which an image is made, and one that decides its class."""
        return {"z": Field((self.own.latent_size,), noise=True), "drawn": Field((1,), noise=True)}

    def losses(self, model: Any, batch: Batch, step: Step) -> torch.Tensor:
        """Return each item's loss of the discriminator, or of the generator for its random numbers alone."""
        share = torch.special.ndtr(batch["drawn"][:, 0])
        labels = (share * self.classes).long().clamp(max=self.classes - 1)
        made = self._made(model, batch["z"], labels)
        believed = self._believed(model, made, labels)
        if step.name == "generator":
            return F.softplus(-believed)
        return F.softplus(-self._believed(model, batch["image"], batch["label"])) + F.softplus(believed)

    def _made(self, model: Any, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = model.generator(torch.cat([z, one_hot(labels, self.classes, z)], dim=1))
        return images

    def _believed(self, model: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return full(model.discriminator(with_class(images, labels, self.classes)))[:, 0]

    def made(self, model: Any, labels: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """Return the generator's images for random numbers."""
        return self._made(model, normal((len(labels), self.own.latent_size), random, labels), labels)
