"""Items made of several images: all images of a patient, or the frames or slices of one image.

Every item is padded to a public number of images. The field ``image.there`` says which are real; what is padding is zero, and a
network for such items never lets it influence its result.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Protocol, Self, runtime_checkable

import numpy as np
from pydantic import Field as Key
from pydantic import model_validator

from salus.common.batch import THERE, Batch, Field, Spec
from salus.common.examples import Array, Example
from salus.common.job import MAX_INPUT_NUMBERS, TaskSettings
from salus.common.optional_torch import torch
from salus.common.registry import settings_of
from salus.common.tasks.classification import Classification, ClassificationSettings

MOST_IMAGES = 256  # of an item; a network runs once for each
IMAGE = "image"
HERE = IMAGE + THERE


class ItemSettings(TaskSettings):
    """Settings of the tasks whose items are made of several images.

    Args:
        item: What one item is: all images of a `patient`, or one `image` whose first side is its frames or slices.
        most_images: Images of a patient that are used; of a patient with more, always the same ones, chosen by a hash.
    """

    item: Literal["patient", "image"] = "patient"
    most_images: Annotated[int, Key(ge=1, le=MOST_IMAGES)] = 16  # each costs the time and memory of an image

    @model_validator(mode="after")
    def _sizes_of_items(self) -> Self:
        if self.item == "image" and len(self.shape) != 3:
            raise ValueError('expected three sides of shape, the frames first, with item = "image"')
        if self.item == "image" and self.shape[0] > MOST_IMAGES:
            raise ValueError(f"expected at most {MOST_IMAGES} frames")
        if math.prod(self.shape) * self.channels * (self.frames if self.item == "patient" else 1) > MAX_INPUT_NUMBERS:
            raise ValueError(f"expected at most {MAX_INPUT_NUMBERS} numbers per item; lower most_images or shape")
        return self

    @property
    def frames(self) -> int:
        """How many frames a network is given for each item."""
        return self.most_images if self.item == "patient" else self.shape[0]

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Sides of one frame."""
        return self.shape if self.item == "patient" else self.shape[1:]


class SeveralSettings(ItemSettings, ClassificationSettings):
    """Settings of such tasks with one label per item."""


@runtime_checkable
class OfSeveral(Protocol):
    """A task whose items are made of all images of a patient where `most_images` is not 0."""

    most_images: int
    spec_of_image: Spec
    """The inputs of one image, as the chain gives them; `spec` has those of an item."""

    def together(self, images: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Return the fields of an item without its label, from those that `Task.prepare` returned for each image, in order.

        Args:
            images: at least one, at most `most_images`.
        """

    def label_of(self, targets: Sequence[Array | int]) -> Array | int | None:
        """Return what an item's label is, from those of its images; None if they do not make one."""


def several_of(task: object) -> OfSeveral | None:
    """Return a task whose items are made of several images of the catalogue; None for any other."""
    return task if isinstance(task, OfSeveral) and task.most_images else None


class Several(Classification):
    """A classification of items made of several images; the network is called with the images and with which are there."""

    Settings: type[TaskSettings] = SeveralSettings
    most_images: int
    spec_of_image: Spec

    def _set(self, settings: TaskSettings, inputs: dict[str, Field]) -> None:
        own = settings_of(settings, ItemSettings)
        self.most_images = own.most_images if own.item == "patient" else 0
        self.spec_of_image = inputs
        image = Field((own.frames, own.channels, *own.frame_shape))
        super()._set(settings, {IMAGE: image, HERE: Field((own.frames,))})

    def prepare(self, example: Example) -> dict[str, torch.Tensor]:
        """Return one image of an item, or all frames of it where an item is one image; errors as in `Classification`."""
        fields = super().prepare(example)
        if self.most_images:
            return fields
        frames = fields[IMAGE].transpose(0, 1).contiguous()
        return {**fields, IMAGE: frames, HERE: torch.ones(len(frames))}

    def together(self, images: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Return the images one after the other, and which are there; see `OfSeveral`."""
        frames = torch.zeros(self.spec[IMAGE].shape)
        for place, fields in enumerate(images):
            frames[place] = fields[IMAGE]
        there = torch.zeros(len(frames))
        there[: len(images)] = 1.0
        return {IMAGE: frames, HERE: there}

    def label_of(self, targets: Sequence[Array | int]) -> Array | int | None:
        """Return the label that all images have; None if they differ."""
        first = np.asarray(targets[0])
        return targets[0] if all(np.array_equal(first, target) for target in targets) else None

    def infer(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return logits ``[items, classes]``."""
        logits: torch.Tensor = model(batch[IMAGE], batch[HERE])
        return logits


def largest(targets: Sequence[Array | int]) -> Array:
    """Return the largest label of all images, for findings each by itself: an item is positive if any of its images is."""
    return np.asarray(np.max(np.stack([np.asarray(target) for target in targets]), axis=0))
