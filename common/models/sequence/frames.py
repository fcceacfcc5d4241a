"""What the networks for several images share: one encoder that is run for each image, and how what is padding is passed over.

A network is called with images ``[items, frames, channels, *sides]`` and with which are there, ``[items, frames]``, 0 or 1.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.job_statistics import Name
from salus.common.models.encoders import ENCODERS
from salus.common.optional_torch import nn, torch
from salus.common.registry import Registry, settings_of
from salus.common.strict import Strict
from salus.common.tasks.several import ItemSettings

UNSEEN = -1e9  # score of what is not there


class EncoderSettings(Strict):
    """Settings of the networks for several images that have an encoder.

    Args:
        encoder: The network that describes one image; its own settings are given beside.
        feature_width: Numbers by which each image is described.
    """

    plugins: ClassVar[dict[str, str | Registry]] = {"encoder": "salus.common.models.encoders:ENCODERS"}

    encoder: Name = "cnn"  # small enough to be trained under noise
    feature_width: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 32  # what a small encoder can tell apart


def check_task(task: TaskSettings) -> ItemSettings:
    """Return the settings of the items; raises JobError for a task whose items are single images."""
    if not isinstance(task, ItemSettings):
        raise JobError(
            f"The model {task.model!r} takes several images, and the items of the task {task.kind!r} are single ones.",
            remedy='Use it with task.kind = "sequence" or "multi-instance", or choose another model.',
        )
    return settings_of(task, ItemSettings)


class Frames(nn.Module):
    """Each image as a vector, zero where it is not there.

    Args:
        own: names a network for recognition, which is built with `feature_width` outputs.

    Raises:
        JobError: a task whose items are single images, or an encoder that does not take such images.
    """

    def __init__(self, task: TaskSettings, own: EncoderSettings) -> None:
        super().__init__()
        items = check_task(task)
        features = tuple(f"feature {number}" for number in range(own.feature_width))
        single = task.changed(  # what belongs to the encoder is kept
            kind="classification", model=own.encoder, classes=features, shape=items.frame_shape,
            class_weights=(), codes=(), transforms=(), trainable=(), frozen=(), lora=None,
        )  # fmt: skip
        self.encoder: nn.Module = ENCODERS.get(own.encoder, error=JobError)(single)

    def forward(self, images: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return vectors ``[items, frames, feature_width]``."""
        found: torch.Tensor = self.encoder(images.flatten(0, 1))
        return found.reshape(*there.shape, -1) * there[..., None]


def places(there: torch.Tensor) -> torch.Tensor:
    """Return 0, 1, ... for the frames of each item, int64 ``[items, frames]``."""
    return torch.arange(there.shape[1], device=there.device).expand(len(there), -1)
