"""From an input as its source reads it to what is explained about it, and from a map back to the image's own grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from scipy import ndimage

from salus.client.data.examples import example_of
from salus.client.data.records import Sample
from salus.client.explaining.layers import features_of
from salus.client.explaining.scores import Question, batch_of, question_of
from salus.client.explaining.subject import FloatArray, Subject
from salus.client.predicting.model import FinishedModel
from salus.common.columns import columns_of
from salus.common.errors import DataError, UnreadableImage
from salus.common.examples import Example
from salus.common.job import Job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.tasks.segmentation import Segmentation

BLUR = 0.25  # of the side: nothing but the slow change of brightness is left of an image
RANDOM_SEED = 2_147_483  # of random weights; any number but the job's own seed, with which training began


@dataclass(frozen=True)
class Asked:
    """One input, and what is asked about it.

    Args:
        inputs: of the network, ``[1, ...]``.
        features: by which inputs are compared with each other.
        values: of a row, as its source has it, by column.
        traced: the image after each step of the job's chain.
        start: of the network's window in the image after the chain; empty if it is the whole image.
    """

    question: Question
    inputs: torch.Tensor
    features: FloatArray
    values: dict[str, float] = field(default_factory=dict)
    traced: Sequence[Example] = ()
    start: tuple[int, ...] = ()


class Asking(Protocol):
    """A model to which the same question can be put about one input after the other."""

    columns: tuple[str, ...]
    """Of a row; empty for images."""

    def __call__(self, sample: Sample, vendor: str) -> Asked:
        """Return what is asked about a sample; raises DataError or UnreadableImage for one that the model is not for."""

    def subject(self, asked: Asked, others: torch.Tensor, seed: int) -> Subject:
        """Return what the methods explain."""

    def randomised(self, subject: Subject) -> Subject | None:
        """Return the subject with random weights; None for a model that has none."""

    def on_image(self, found: FloatArray, asked: Asked) -> FloatArray:
        """Return a map of the network's input on the grid of the image itself."""


class NetworkAsking:
    """A network that was trained, for images or rows."""

    def __init__(self, job: Job, model: FinishedModel, device: torch.device) -> None:
        self._job, self._task = job, make_task(job.task)
        self._network, self._device = model.network.to(device), device
        for parameter in self._network.parameters():
            parameter.requires_grad_(True)
        self._input = "features" if "features" in self._task.spec else "image"
        columns = columns_of(job.task) if self._input == "features" else ()
        self.columns = tuple(column.name for column in columns)
        self._groups = tuple(place for place, column in enumerate(columns) for _ in range(max(1, len(column.values))))

    def __call__(self, sample: Sample, vendor: str) -> Asked:
        chain = self._task.chain
        traced = chain.traced(example_of(sample, self._job.task, vendor, measured=chain.measured))
        fields = self._task.prepare(traced[-1])
        with torch.no_grad():
            batch = batch_of(self._task, fields).to(self._device)
            outputs = self._task.infer(self._network, batch).float()
        if not torch.isfinite(outputs).all():
            raise UnreadableImage("not-finite", "the model's output for it is not finite")
        inputs, start = batch[self._input], tuple[int, ...]()
        if isinstance(self._task, Segmentation) and tuple(inputs.shape[2:]) != self._job.task.shape:
            inputs, start = self._window(self._task, inputs, outputs)
            with torch.no_grad():
                outputs = self._network(inputs).float()
        question = question_of(self._task, self._network, inputs, outputs)
        features = features_of(self._network, inputs)
        return Asked(question, inputs, features, self._values(traced[-1]), traced, start)

    def subject(self, asked: Asked, others: torch.Tensor, seed: int) -> Subject:
        empty = others.mean(dim=0, keepdim=True) if self.columns else blurred(asked.inputs)
        return Subject(
            asked.question.score, asked.inputs, empty.to(self._device), others.to(self._device), self._groups,
            self.columns, place=asked.question.place, seed=seed,
        )  # fmt: skip

    def randomised(self, subject: Subject) -> Subject | None:
        network = build_model(self._job.task, RANDOM_SEED + self._job.job.seed + subject.seed).eval().to(self._device)
        return subject.with_network(network)

    def on_image(self, found: FloatArray, asked: Asked) -> FloatArray:
        reached = asked.traced[-1]
        grid = reached["image"].shape[1:]
        if asked.start:
            whole = np.zeros(grid, np.float32)
            places = tuple(
                slice(start, min(side, start + own))
                for start, own, side in zip(asked.start, found.shape, grid, strict=True)
            )
            whole[places] = found[tuple(slice(0, place.stop - place.start) for place in places)]
            found = whole
        example = Example({"mask": found[None]}, frozenset({"mask"}), reached.affine)
        return np.asarray(self._task.chain.inverse(example, asked.traced)["mask"][0], np.float32)

    def _window(
        self, task: Segmentation, inputs: torch.Tensor, outputs: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Return the window of the network's size around the middle of the largest structure, and where it starts."""
        found = task.predicted(outputs)[0]
        largest = found[int(found.flatten(1).sum(dim=1).argmax())].nonzero().float()
        sides, shape = inputs.shape[2:], self._job.task.shape
        middle = largest.mean(dim=0).tolist() if len(largest) else [side / 2 for side in sides]
        start = tuple(
            max(0, min(round(place - own / 2), side - own))
            for place, own, side in zip(middle, shape, sides, strict=True)
        )
        window = inputs[(slice(None), slice(None), *(slice(s, s + own) for s, own in zip(start, shape, strict=True)))]
        missing = [own - side for own, side in zip(shape, window.shape[2:], strict=True)]
        pads = [number for more in reversed(missing) for number in (0, more)]
        return torch.nn.functional.pad(window, pads), start

    def _values(self, example: Example) -> dict[str, float]:
        if not self.columns:
            return {}
        return dict(zip(self.columns, (float(value) for value in example["features"]), strict=True))


def blurred(inputs: torch.Tensor) -> torch.Tensor:
    """Return images without structure, of the same brightness."""
    values: Any = inputs.detach().cpu().numpy()
    sigma = [0.0, 0.0, *(BLUR * side for side in values.shape[2:])]
    return torch.from_numpy(np.asarray(ndimage.gaussian_filter(values, sigma, mode="nearest"), np.float32))


def check_row(row: Mapping[str, float], columns: Sequence[str]) -> None:
    """Raise DataError for a row that lacks one of the job's columns."""
    lacking = [name for name in columns if name not in row]
    if lacking:
        raise DataError(
            f"Expected a table with the job's columns, got one without {lacking[0]!r}.",
            remedy="Give a table with the same columns as the sites'.",
        )
