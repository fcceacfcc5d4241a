"""From one stored image to what the model says about it: a class, or a mask on the image's own grid.

The image goes through the same fixed steps as in training. Probabilities come back through the same steps in reverse, and the
choice between structures is made on the image's own grid, so that its borders are not those of the model's coarser one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from salus.client.data.examples import example_of
from salus.client.data.records import Sample
from salus.common.batch import Batch, stacked
from salus.common.errors import JobError, UnreadableImage
from salus.common.examples import BOXES, Array, Example
from salus.common.job import TaskSettings
from salus.common.tasks.base import Saying, Task
from salus.common.tasks.several import several_of

MAX_PROBABILITIES = 2**29  # numbers on the image's grid; beyond it class numbers come back instead
HALF = 0.5


@dataclass(frozen=True)
class Answer:
    """What a model says about an image.

    Args:
        label: the class, findings, grade or number; empty for a segmentation.
        probabilities: by class.
        values: predicted numbers by name.
        mask: ``[*spatial]`` numbers of structures on the image's grid, 0 for background; ``[structures, *spatial]`` of 0 and 1
            where structures may overlap; None for a classification.
        boxes: ``[objects, 2 * dims + 2]``: corners in pixels of the image, class number from 1, and score; None if the task finds
            no boxes.
        objects: whether the numbers of the mask are objects of one structure, and over the frames of a clip its tracks.
    """

    label: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    mask: Array | None = None
    objects: bool = False
    boxes: Array | None = None


@runtime_checkable
class Numbering(Protocol):
    """A task whose predictions are single objects."""

    def numbered(self, outputs: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return the number of its object for each pixel of the image ``[channels, *spatial]``, int64 ``[*spatial]``."""


@runtime_checkable
class Locating(Protocol):
    """A task whose predictions are boxes."""

    def located(self, outputs: torch.Tensor) -> Array:
        """Return the boxes of an item on the grid after the transforms, as in `Answer`."""


class Answering:
    """A model that answers for one image after the other.

    Raises:
        JobError: a task whose predictions cannot be written yet.
    """

    def __init__(self, task: Task, network: torch.nn.Module, device: torch.device) -> None:
        self._task, self._network, self._device = task, network.to(device), device
        self._settings: TaskSettings = task.settings
        self._masks = "mask" in task.spec
        if not self._masks and not isinstance(task, Saying | Numbering | Locating):
            raise JobError(
                f"Predictions of the task {task.settings.kind!r} cannot be written.",
                remedy="Use a job whose predictions are labels, numbers, masks or boxes.",
            )

    def __call__(self, sample: Sample, vendor: str) -> Answer:
        """Return the answer for a sample.

        Raises:
            DataError: the sample does not fit the job.
            UnreadableImage: the model's output for it is not finite.
        """
        traced = self._traced(sample, vendor)
        batch, outputs = self._outputs(self._task.prepare(traced[-1]))
        if self._masks:
            return self._masked(outputs, traced)
        if isinstance(self._task, Numbering):
            return self._numbered(self._task.numbered(outputs, batch["image"].cpu()[0]), traced)
        if isinstance(self._task, Locating):
            return self._located(self._task.located(outputs), traced)
        assert isinstance(self._task, Saying)  # Safe because it was checked above.
        said = self._task.said(outputs)
        return Answer(said.label, said.probabilities, said.values)

    def prepared(self, sample: Sample, vendor: str) -> Mapping[str, torch.Tensor]:
        """Return one image of a patient for `together`; errors as for a single image."""
        return self._task.prepare(self._traced(sample, vendor)[-1])

    def together(self, images: Sequence[Mapping[str, torch.Tensor]]) -> Answer:
        """Return the answer for a patient's images, in their order, with their number.

        Raises:
            UnreadableImage: the model's output is not finite.
        """
        several = several_of(self._task)
        assert several is not None  # Safe because only such a task is asked.
        assert isinstance(self._task, Saying)  # Safe because such tasks have labels.
        said = self._task.said(self._outputs(several.together(images))[1])
        return Answer(said.label, said.probabilities, {**said.values, "images": float(len(images))})

    def _traced(self, sample: Sample, vendor: str) -> Sequence[Example]:
        chain = self._task.chain
        beside: Sequence[str] = getattr(self._task, "optional", ())  # what a model is given beside the image
        example = example_of(sample, self._settings, vendor, annotations=beside, measured=chain.measured)
        return chain.traced(example)

    def _outputs(self, fields: Mapping[str, torch.Tensor]) -> tuple[Batch, torch.Tensor]:
        with torch.inference_mode():
            batch = stacked([fields]).to(self._device)
            outputs = self._task.infer(self._network, batch).float().cpu()[0]
        if not torch.isfinite(outputs).all():
            raise UnreadableImage("not-finite", "the model's output for it is not finite")
        return batch, outputs

    def _numbered(self, numbers: torch.Tensor, traced: Sequence[Example]) -> Answer:
        """Return a mask of objects on the image's own grid, to which numbers go back by the nearest pixel, and their count."""
        reached = Example({"mask": numbers.numpy().astype(np.int32)[None]}, frozenset({"mask"}), traced[-1].affine)
        mask = self._task.chain.inverse(reached, traced)["mask"][0]
        count = len(np.unique(mask[mask > 0]))
        if mask.max() < 2**16:
            mask = mask.astype(np.uint16)
        return Answer(values={"count": float(count)}, mask=mask, objects=True)

    def _located(self, boxes: Array, traced: Sequence[Example]) -> Answer:
        """Return boxes on the image's own grid; those whose centre lies outside of it are left out."""
        back = self._task.chain.inverse(Example({BOXES: boxes}, affine=traced[-1].affine), traced)[BOXES]
        return Answer(values={"count": float(len(back))}, boxes=back)

    def _masked(self, logits: torch.Tensor, traced: Sequence[Example]) -> Answer:
        overlapping = len(logits) == len(self._settings.classes)
        shares = torch.sigmoid(logits) if overlapping else torch.softmax(logits, dim=0)
        grid = traced[0]["image"].shape[1:]
        whole = int(np.prod(grid)) * len(shares) <= MAX_PROBABILITIES
        content = shares.numpy() if whole else _chosen(shares.numpy(), overlapping=overlapping)
        reached = Example({"mask": content}, frozenset({"mask"}), traced[-1].affine)
        back = self._task.chain.inverse(reached, traced)["mask"]
        mask = _chosen(back, overlapping=overlapping) if whole else back
        return Answer(mask=mask[0] if len(mask) == 1 else mask)


def _chosen(shares: Array, *, overlapping: bool) -> Array:
    """Return ``[1, *spatial]`` numbers of the most probable structure, or a layer of 0 and 1 for each structure."""
    if overlapping:
        return np.asarray(shares > HALF, np.uint8)
    return np.asarray(shares.argmax(axis=0), np.uint8 if len(shares) < 256 else np.uint16)[None]
