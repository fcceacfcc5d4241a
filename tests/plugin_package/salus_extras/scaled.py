"""A task: segmentation whose losses have a scale of their own."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from salus.common.batch import Batch
from salus.common.job import TaskSettings
from salus.common.registry import Registry, settings_of
from salus.common.tasks.base import Step
from salus.common.tasks.segmentation import Segmentation, SegmentationSettings


class ScaledSettings(SegmentationSettings):
    """Settings of `scaled-segmentation`.

    Args:
        loss_scale: Factor of every item's loss.
    """

    plugins: ClassVar[Mapping[str, str | Registry]] = SegmentationSettings.plugins

    loss_scale: Annotated[float, Field(gt=0, le=10)] = 1.0


class ScaledSegmentation(Segmentation):
    """Segmentation, with scaled losses and the Dice of a structure as its headline."""

    Settings = ScaledSettings

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self._scale = settings_of(settings, ScaledSettings).loss_scale
        self.headline = (f"dice_{settings.classes[0]}",)

    def losses(self, model: torch.nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        return self._scale * super().losses(model, batch, step)
