"""Generation of images of a class: what the variational autoencoder, GAN, diffusion and recurrent model share.

The scores compare generated with real validation images, see `metrics.generated`. A model is public to all who take part, so
whoever evaluates it generates images from a public seed: this costs no privacy, and only the real images' features and
classifications are summed.
"""

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, Self, runtime_checkable

import numpy.typing as npt
from pydantic import Field as Key
from pydantic import model_validator

from salus.common.batch import Batch, Field, Spec
from salus.common.canonical import canonical_json
from salus.common.estimates import Metric
from salus.common.examples import Example
from salus.common.figures import Figures
from salus.common.job import TaskSettings
from salus.common.metrics.generated import (
    MOMENTS,
    LeastSquares,
    balanced,
    fixed_features,
    frechet_distance,
    moments,
)
from salus.common.optional_torch import torch
from salus.common.strict import Strict
from salus.common.tasks.base import ONE_STEP, Step, Totals, finite
from salus.common.tasks.classification import Classification

MOST_SCORED = 2**26  # numbers of all images that score a model: 256 MB, and as much again while they are made
LOSS_LIMIT = 20.0  # one item's loss counts at most this, so that its share of the statistic is at most 1
MADE_AT_ONCE = 64  # images that are generated together
SCORE_SEED = 0  # public: everybody who scores a model generates the same images
KEPT = 2  # models whose generated images' statistics are kept in memory
SUFFIX = "_generated"


class GenerationSettings(TaskSettings):
    """Settings of generation.

    Args:
        score_images: Images that are generated to score a model, all classes together.
    """

    score_images: Annotated[int, Key(ge=16, le=4096)] = 256  # enough to rank models; a site makes them once a round

    @model_validator(mode="after")
    def _classes_to_make(self) -> Self:
        if len(self.classes) < 2:
            raise ValueError("expected at least two different classes")
        if math.prod(self.shape) * self.channels * self.score_images > MOST_SCORED:
            raise ValueError(f"expected at most {MOST_SCORED} numbers in all score_images together")
        return self


@runtime_checkable
class Generating(Protocol):
    """A task whose models make images."""

    settings: TaskSettings

    def generated(self, model: torch.nn.Module, labels: torch.Tensor, seed: int) -> torch.Tensor:
        """Return an image of each class number ``[items]``, as `prepare` would: ``[items, channels, *shape]``."""


@dataclass(frozen=True)
class Scored:
    """What is needed of a model's generated images.

    Args:
        moments: mean moments of the images of each class, ``[classes, MOMENTS]``.
        classifier: trained on the images.
    """

    moments: torch.Tensor
    classifier: LeastSquares


class Generation:
    """The common part; a kind says which noise it needs, its losses, and how an image is made."""

    Settings: ClassVar[type[Strict]] = GenerationSettings
    steps: Sequence[Step] = ONE_STEP
    headline: Sequence[str] = ("auc_generated", "frechet_distance")

    def __init__(self, settings: TaskSettings) -> None:
        self._real = Classification(settings)  # labels of images, and metrics of the classifier that is tested on them
        self.settings, self.chain = settings, self._real.chain
        self.classes = len(settings.classes)
        self.image_shape = (settings.channels, *settings.shape)
        self.spec: Spec = {**self._real.spec, **self.noise()}

    def noise(self) -> dict[str, Field]:
        """Return the fields of random numbers that the losses need."""
        raise NotImplementedError

    def losses(self, model: torch.nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        """Return each item's loss."""
        raise NotImplementedError

    def made(self, model: Any, labels: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """Return an image of each class number.

        Args:
            labels: ``[items]`` on the model's device.
            random: of the CPU.
        """
        raise NotImplementedError

    def target(self, label: str) -> npt.NDArray[Any] | None:
        """Return the number of a label's class; None if it is none of the job's."""
        return self._real.target(label)

    def prepare(self, example: Example) -> dict[str, torch.Tensor]:
        """Return the image and, where the example has one, its label; raises DataError for an image of another shape."""
        return self._real.prepare(example)

    def generated(self, model: torch.nn.Module, labels: torch.Tensor, seed: int) -> torch.Tensor:
        """Return an image of each class number ``[items]``, on the CPU; the same numbers and seed give the same images."""
        device = next(model.parameters()).device
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            parts = [
                self.made(model, part.to(device), random).float().cpu() for part in torch.split(labels, MADE_AT_ONCE)
            ]
        return torch.cat(parts)

    def infer(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return ``[items, outputs]``: the item's loss, its features, the moments of generated images of its class, and logits of
        the classifier that was trained on generated images."""
        features = fixed_features(self.settings.channels, len(self.settings.shape))
        scored = self._scored(model)
        wide = features.wide(batch["image"])
        with torch.no_grad():
            losses = self.losses(model, batch, self.steps[0]).detach().double().cpu()
        parts = [moments(features.small(wide)), scored.moments[batch["label"].cpu()], scored.classifier.logits(wide)]
        return torch.cat([losses[:, None], *parts], dim=1)

    def _scored(self, model: torch.nn.Module) -> Scored:
        key = hashlib.sha256(canonical_json(self.settings.model_dump(mode="json")))
        for parameter in model.parameters():
            key.update(parameter.detach().cpu().numpy().tobytes())
        return SCORES.of(key.digest(), lambda: self._score(model))

    def _score(self, model: torch.nn.Module) -> Scored:
        labels = balanced(self.classes, getattr(self.settings, "score_images", 16))
        features = fixed_features(self.settings.channels, len(self.settings.shape))
        images = self.generated(model, labels, SCORE_SEED)
        wide = torch.cat([features.wide(part) for part in torch.split(images, MADE_AT_ONCE)])
        found = moments(features.small(wide))
        each = torch.stack([found[labels == number].mean(dim=0) for number in range(self.classes)])
        return Scored(each, LeastSquares(wide, labels, self.classes))

    def score_bytes(self, activations: int) -> int:
        """Return the memory that a score takes: all its images twice, their features, and a pass of some through the network.

        Args:
            activations: numbers that the network computes for one image.
        """
        count = len(balanced(self.classes, getattr(self.settings, "score_images", 16)))
        width = fixed_features(self.settings.channels, len(self.settings.shape)).width
        images = 2 * 4 * count * math.prod(self.image_shape)
        solved = 8 * (4 * count * width + 3 * min(count, width) ** 2)  # in double precision
        return images + solved + 4 * min(count, MADE_AT_ONCE) * activations

    @property
    def statistics_size(self) -> int:
        """Length of a row of `rows`."""
        return self._real.statistics_size + 1 + 2 * MOMENTS

    def rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return [a row of `Classification`, loss, moments of the real image, moments of generated images of its class]."""
        found = finite(outputs)
        share = found[:, :1].clamp(0, LOSS_LIMIT) / LOSS_LIMIT
        return torch.cat(
            [self._real.rows(self._logits(outputs), batch), share, found[:, 1 : 1 + 2 * MOMENTS].clamp(0, 1)], 1
        )

    def _logits(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs[:, 1 + 2 * MOMENTS :]

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return frechet_distance, loss, and auc_generated, accuracy_generated and recall_<class>_generated of the classifier."""
        if totals[0] < 0.5:
            return {}
        of_classifier, own = totals[: self._real.statistics_size], totals[self._real.statistics_size :] / totals[0]
        found = {
            name + SUFFIX: value
            for name, value in self._real.metrics(of_classifier).items()
            if name not in ("loss", "calibration_error")  # least squares gives no probabilities
        }
        distance = frechet_distance(own[1 : 1 + MOMENTS], own[1 + MOMENTS :])
        return {**found, "frechet_distance": distance, "loss": float(own[0] * LOSS_LIMIT)}

    def figures(self, totals: Totals) -> Figures:
        """Return the figures of the classifier that was trained on generated images."""
        return self._real.figures(totals[: self._real.statistics_size])

    @property
    def private_statistics_size(self) -> int:
        """Length of a row of `private_rows`."""
        return self._real.private_statistics_size

    def private_rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the rows of `Coarse` for the classifier that was trained on generated images."""
        return self._real.private_rows(self._logits(outputs), batch)

    def private_metrics(self, totals: Totals, noise_sd: float) -> dict[str, Metric]:
        """Return auc_generated, accuracy_generated and, with two classes, recall_<class>_generated."""
        return {name + SUFFIX: value for name, value in self._real.private_metrics(totals, noise_sd).items()}

    def private_figures(self, totals: Totals, noise_sd: float) -> Figures:
        """Return the figures of the classifier that was trained on generated images."""
        return self._real.private_figures(totals, noise_sd)

    def foretold(self, patients: float, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics of a classifier with an area of 0.90."""
        return {name + SUFFIX: value for name, value in self._real.foretold(patients, noise_sd).items()}


class _Latest:
    """The scores of the last models: all virtual sites of a process ask for the same ones."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Scored] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, key: bytes, make: Any) -> Scored:
        """Return what `make` returned for this key, called once."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]


SCORES = _Latest()


def one_hot(labels: torch.Tensor, classes: int, like: torch.Tensor) -> torch.Tensor:
    """Return ``[items, classes]``, 1 at each item's class."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)).to(like)


def with_class(images: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Return images with a channel for each class, 1 everywhere in that of the image's class."""
    planes = one_hot(labels, classes, images).reshape(len(images), classes, *[1] * (images.dim() - 2))
    return torch.cat([images, planes.expand(-1, -1, *images.shape[2:])], dim=1)


def normal(shape: tuple[int, ...], random: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    """Return standard normal numbers of the CPU's generator on the device of `like`."""
    return torch.randn(shape, generator=random).to(like.device)
