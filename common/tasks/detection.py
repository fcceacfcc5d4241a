"""Detection: boxes around the objects of an image, with a class and a score each, in two or three dimensions.

The network and the meaning of its outputs belong together, so a model for detection brings its `Detector` (`models.detectors`).
Average precision comes from histograms of scores that add up over images and sites.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field as Key

from salus.common.batch import THERE, Batch, Field, Spec
from salus.common.errors import DataError, JobError
from salus.common.estimates import Metric
from salus.common.examples import BOXES, Array, Example
from salus.common.figures import Figures
from salus.common.job import TaskSettings
from salus.common.metrics.average_precision import BINS, AveragePrecision, partners
from salus.common.metrics.mean_share import SIZE, mean_of, private_rows_of
from salus.common.models import MODELS
from salus.common.models.detectors.base import Detector, Found
from salus.common.optional_torch import torch
from salus.common.registry import settings_of
from salus.common.tasks.base import ONE_STEP, Step, Totals, full
from salus.common.tasks.classification import DEFAULT_CHAIN
from salus.common.tasks.objects import object_fields, padded_objects
from salus.common.transforms.chain import Chain

HEAD = 6  # numbers of a row before those of average precision
SPACING = "spacing"
RIGHT = 0.5  # overlap from which an object is found
FALSE_PER_IMAGE = 1.0  # at which `sensitivity` is given
LARGEST_ERROR_MM = 50.0  # of a diameter; larger ones count as this, so that rows are bounded


class DetectionSettings(TaskSettings):
    """Settings of detection.

    Args:
        most_objects: Objects of an image at most; images with more are not used, and no more are found in an image.
        least_score: Score from which an object counts as found in predictions, 0 .. 1.
        nms_overlap: Of two found objects of one class that overlap by more than this, the one with the lower score is dropped.
    """

    most_objects: Annotated[int, Key(ge=1, le=512)] = 64  # a field of view of a microscope
    least_score: Annotated[float, Key(ge=0.05, le=1)] = 0.3  # scores of focal losses are low
    nms_overlap: Annotated[float, Key(gt=0, lt=1)] = 0.5  # as usual


class Detection:
    """Boxes of `settings.classes`."""

    Settings = DetectionSettings
    annotations: ClassVar[Mapping[str, str]] = {BOXES: "boxes"}
    steps = ONE_STEP
    headline = ("ap50_mean", "sensitivity")

    def __init__(self, settings: TaskSettings) -> None:
        self.dims = len(settings.shape)
        if self.dims not in (2, 3) or not settings.classes:
            raise JobError(
                f"Expected task.shape with 2 or 3 sides and at least one class for detection, got {list(settings.shape)}.",
                remedy='Write for example "shape = [256, 256]".',
            )
        own = settings_of(settings, DetectionSettings)
        self.settings, self.own = settings, own
        self.chain = Chain.of(settings.transforms or DEFAULT_CHAIN, settings)
        self.classes = len(settings.classes)
        build = MODELS.get(settings.model, error=JobError)
        make = getattr(build, "detector", None)
        if make is None:
            masks = ' For masks of objects write task.kind = "instances".' if hasattr(build, "object_masks") else ""
            raise JobError(
                f"The model {settings.model!r} gives no boxes, which the task 'detection' needs.",
                remedy=f"Use a model for detection, such as retinanet.{masks}",
            )
        self.detector: Detector = make(settings)
        self._precision = AveragePrecision(own.most_objects)

    @property
    def spec(self) -> Spec:
        """The image, its objects, and the grid's spacing in millimetres, 0 where it is unknown."""
        image = Field((self.settings.channels, *self.settings.shape), spatial=True)
        return {"image": image, SPACING: Field((self.dims,)), **object_fields(self.own.most_objects, self.dims)}

    def target(self, label: str) -> Array | None:
        """Return nothing: the task has no use for a label."""
        return None

    def prepare(self, example: Example) -> dict[str, torch.Tensor]:
        """Return the fields of one item; without annotation only the image and its spacing.

        Raises:
            DataError: images of another shape than the job's.
            UnreadableImage: more objects than the job allows.
        """
        image = example["image"]
        shape = (self.settings.channels, *self.settings.shape)
        if image.shape != shape:
            raise DataError(
                f"Expected images of {list(shape)} after the transforms, got {list(image.shape)}.",
                remedy="End the chain with a resize or a center-crop to task.shape.",
            )
        fields = {"image": torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))}
        fields[SPACING] = torch.tensor(example.spacing_mm[-self.dims :] or (0.0,) * self.dims)
        if BOXES in example:
            fields |= padded_objects(example[BOXES], self.own.most_objects, self.dims)
        return fields

    def losses(self, model: torch.nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        """Return each image's loss, that of its detector."""
        outputs = full(model(batch["image"]))
        return self.detector.losses(outputs, batch[BOXES].to(outputs), batch[BOXES + THERE].to(outputs))

    def infer(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return the network's outputs ``[items, places, numbers]``."""
        found: torch.Tensor = full(model(batch["image"]))
        return found

    def found(self, outputs: torch.Tensor) -> Found:
        """Return the objects of one image, the best scores first, after non-maximum suppression.

        Args:
            outputs: of `infer`, without their first dimension.
        """
        finite = torch.nan_to_num(outputs.detach().float().cpu(), 0.0, 30.0, -30.0)
        return self.detector.found(finite, self.own.most_objects, self.own.nms_overlap)

    def located(self, outputs: torch.Tensor) -> Array:
        """Return the objects of one image with at least `least_score`, float32 ``[objects, 2 dims + 2]``, the best first.

        These are corners in pixels after the transforms, class number from 1, and score.

        Args:
            outputs: of `infer`, without their first dimension.
        """
        found = self.found(outputs)
        parts = [found.boxes, found.classes[:, None] + 1.0, found.scores[:, None]]
        every = torch.cat(parts, dim=1)[found.scores >= self.own.least_score]
        return np.asarray(every.numpy(), np.float32)

    @property
    def statistics_size(self) -> int:
        """Length of a row of `rows`."""
        return HEAD + self.classes * self._precision.size

    def rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the row of each item, float64 ``[items, statistics_size]``, each entry between 0 and 1.

        A row is 1, the objects that are right, annotated, and found with the least score, those of the right ones in an image of
        known spacing and the error of their diameter, and the average precision of each class.
        """
        fields = (batch[BOXES].double().cpu(), batch[BOXES + THERE].cpu(), batch[SPACING].double().cpu())
        pairs = zip(outputs, *fields, strict=True)
        return torch.stack([self._row(self.found(one), boxes[there > 0], mm) for one, boxes, there, mm in pairs])

    def _row(self, found: Found, boxes: torch.Tensor, spacing: torch.Tensor) -> torch.Tensor:
        counts, parts = torch.zeros(HEAD - 1, dtype=torch.float64), []
        for number in range(self.classes):
            mine, true = found.of_class(number), boxes[boxes[:, -1].round() == number, :-1]
            partner = partners(overlaps(mine.boxes.double(), true), mine.scores, RIGHT)
            right, said = partner >= 0, mine.scores >= self.own.least_score
            counts[:3] += torch.tensor([int((right & said).sum()), len(true), int(said.sum())], dtype=torch.float64)
            if bool((spacing > 0).all()):
                seen = right & said
                sides = (diameters(mine.boxes[seen].double(), spacing), diameters(true[partner[seen]], spacing))
                counts[3] += int(seen.sum())
                counts[4] += ((sides[0] - sides[1]).abs() / LARGEST_ERROR_MM).clamp(max=1).sum()
            parts.append(self._precision.row(mine.scores, right, len(true)))
        head = torch.cat([torch.ones(1, dtype=torch.float64), counts / self.own.most_objects])
        return torch.cat([head, *parts])

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return ap50_mean, ap50_<class>, sensitivity at one false object an image, recall, precision, and diameter_error_mm,
        the mean error of the longest side of the right objects where spacing is known; empty without items."""
        items, right, annotated, found, measured, error = (float(value) for value in totals[:HEAD])
        if items < 0.5 or annotated <= 0:
            return {}
        parts = totals[HEAD:].reshape(self.classes, -1)
        scores = {
            f"ap50_{name}": value
            for name, part in zip(self.settings.classes, parts, strict=True)
            if (value := self._precision.value(part)) is not None
        }
        result = dict(scores)
        if scores:
            result["ap50_mean"] = float(np.mean(list(scores.values())))
            result["sensitivity"] = self._sensitivity(items, parts.sum(axis=0))
        result["recall"] = right / annotated
        if found > 0:
            result["precision"] = right / found
        if measured * self.own.most_objects > 0.5:
            result["diameter_error_mm"] = LARGEST_ERROR_MM * error / measured
        return result

    def _sensitivity(self, items: float, part: Totals) -> float:
        """Return the share of objects found with the lowest score at which there is at most one false object an image."""
        right, wrong = (np.cumsum(values[::-1]) * self.own.most_objects for values in np.split(part[1:], [BINS]))
        allowed = wrong <= FALSE_PER_IMAGE * items
        annotated = float(part[0]) * self.own.most_objects
        return float(right[allowed].max(initial=0.0) / annotated) if annotated > 0 else 0.0

    def figures(self, totals: Totals) -> Figures:
        """Return nothing: there is no curve."""
        return Figures()

    @property
    def private_statistics_size(self) -> int:
        """Length of a row of `private_rows`."""
        return SIZE

    def private_rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the count and the F1 of each item at an overlap of a half; 1 where nothing is annotated and nothing found."""
        rows = self.rows(outputs, batch)
        both = rows[:, 2] + rows[:, 3]
        return private_rows_of(torch.where(both > 0, 2 * rows[:, 1] / both.clamp(min=1e-12), 1.0))

    def private_metrics(self, totals: Totals, noise_sd: float) -> dict[str, Metric]:
        """Return mean_f1, the mean over images of F1."""
        return {"mean_f1": mean_of(totals, noise_sd)}

    def private_figures(self, totals: Totals, noise_sd: float) -> Figures:
        """Return nothing, as `figures`."""
        return Figures(fitted=True)

    def foretold(self, patients: float, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics of a model with a mean F1 of 0.8."""
        typical = private_rows_of(torch.tensor([0.8], dtype=torch.float64))[0].numpy() * patients
        return self.private_metrics(typical, noise_sd)


def diameters(boxes: torch.Tensor, spacing: torch.Tensor) -> torch.Tensor:
    """Return the longest side in millimetres ``[n]`` of boxes ``[n, 2 dims]``, with pixels of this spacing ``[dims]``."""
    low, high = torch.split(boxes, len(spacing), dim=1)
    return ((high - low) * spacing).amax(dim=1)


def overlaps(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return intersection over union ``[n, m]`` of boxes ``[n, 2 dims]`` and ``[m, 2 dims]``."""
    dims = one.shape[-1] // 2
    low = torch.maximum(one[:, None, :dims], other[None, :, :dims])
    high = torch.minimum(one[:, None, dims:], other[None, :, dims:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    sizes = [(boxes[:, dims:] - boxes[:, :dims]).clamp(min=0).prod(dim=-1) for boxes in (one, other)]
    return shared / (sizes[0][:, None] + sizes[1][None] - shared).clamp(min=1e-9)
