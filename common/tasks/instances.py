"""Instance segmentation: a mask of its own for each object of one kind, touching and overlapping ones too.

The target is a mask whose numbers are objects: 1, 2 ... in any order, 0 for background. Of a volume or clip every picture is
seen by itself; the numbers may go on from picture to picture.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field as Limits

from salus.common.batch import Batch, Field, Spec
from salus.common.errors import DataError, JobError, UnreadableImage
from salus.common.estimates import Metric
from salus.common.examples import Array, Example
from salus.common.figures import Figures
from salus.common.job import TaskSettings
from salus.common.metrics.average_precision import AveragePrecision, matched
from salus.common.metrics.mean_share import SIZE, mean_of, private_rows_of
from salus.common.models.object_masks import ObjectMasks, masks_of
from salus.common.optional_torch import torch
from salus.common.registry import settings_of
from salus.common.strict import Strict
from salus.common.tasks.base import ONE_STEP, Step, Totals, full
from salus.common.tasks.centres import overlaps
from salus.common.tasks.segmentation import DEFAULT_CHAIN
from salus.common.transforms.chain import Chain

LEAST_RANKED = 0.05  # objects with smaller scores do not change the average precision
RIGHT = 0.5  # overlap from which an object is found


class InstancesSettings(Strict):
    """Settings of instance segmentation.

    Args:
        most_objects: Objects of an image at most; images with more are not used, and no more are found in a picture.
        least_score: Score from which an object counts as found in predictions, 0 .. 1.
    """

    most_objects: Annotated[int, Limits(ge=1, le=1024)] = 64  # a field of view of a microscope
    least_score: Annotated[float, Limits(ge=0.05, le=1)] = 0.3  # centres are rarely certain


class Instances:
    """Masks of the objects of one kind, `settings.classes`."""

    Settings: ClassVar[type[Strict]] = InstancesSettings
    annotations: ClassVar[Mapping[str, str]] = {"instances": "mask"}
    objects: ClassVar[str] = "instances"
    """The field whose numbers are objects and not structures."""
    sides: ClassVar[tuple[int, ...]] = (2, 3)
    steps = ONE_STEP
    headline = ("mask_ap50", "f1")

    def __init__(self, settings: TaskSettings) -> None:
        if len(settings.shape) not in self.sides or len(settings.classes) != 1:
            raise JobError(
                f"Expected one name in task.classes and {' or '.join(map(str, self.sides))} sides in task.shape for "
                f"{settings.kind}, got classes {list(settings.classes)} and shape {list(settings.shape)}.",
                remedy='Write for example "shape = [64, 64]" and "classes = ["cell"]"; a clip has its frames first.',
            )
        self.settings = settings
        own = settings_of(settings, InstancesSettings)
        self.most, self._least_score = own.most_objects, own.least_score
        self.chain = Chain.of(settings.transforms or DEFAULT_CHAIN, settings)
        self.pictures = settings.shape[0] if len(settings.shape) == 3 else 1
        self.masks: ObjectMasks = masks_of(settings)
        self._precision = AveragePrecision(self.most * self.pictures)

    @property
    def spec(self) -> Spec:
        """Image and numbers of objects on one grid of the job's shape."""
        shape = self.settings.shape
        return {
            "image": Field((self.settings.channels, *shape), spatial=True),
            "instances": Field((1, *shape), "int64", 0, self.most + 1, spatial=True),
        }

    def target(self, label: str) -> Array | None:
        """Return nothing: the task has no use for a label."""
        return None

    def prepare(self, example: Example) -> dict[str, torch.Tensor]:
        """Return the fields of one item; without annotation only the image.

        Raises:
            DataError: images of another shape than the job's.
            UnreadableImage: a mask with channels, or with more objects than the job allows.
        """
        image = example["image"]
        if image.shape != (self.settings.channels, *self.settings.shape):
            raise DataError(
                f"Expected images of shape {[self.settings.channels, *self.settings.shape]}, got {list(image.shape)}.",
                remedy="End the transforms with one that gives the job's shape, such as resize.",
            )
        fields = {"image": torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))}
        if "instances" not in example:
            return fields
        found = example["instances"]
        if len(found) != 1:
            raise UnreadableImage("bad-mask", "its mask has channels, where its numbers should be objects")
        known, places = np.unique(np.append(0, found.ravel()), return_inverse=True)  # 0 keeps its place
        if len(known) - 1 > self.most:
            raise UnreadableImage("too-many-objects", f"it has more than {self.most} objects; raise task.most_objects")
        return {**fields, "instances": torch.from_numpy(places[1:].reshape(found.shape).astype(np.int64))}

    def flat(self, field: torch.Tensor) -> torch.Tensor:
        """Return a field ``[items, channels, *shape]`` as pictures ``[items * pictures, channels, rows, columns]``."""
        return field if field.dim() == 4 else field.transpose(1, 2).flatten(0, 1)

    def losses(self, model: torch.nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        """Return the loss of each item, the mean over its pictures."""
        outputs = full(model(self.flat(batch["image"])))
        each = self.masks.losses(outputs, self.flat(batch["instances"])[:, 0], self.most)
        return each.reshape(-1, self.pictures).mean(dim=1)

    def infer(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return the network's outputs ``[items, pictures, ...]``."""
        found: torch.Tensor = full(model(self.flat(batch["image"])))
        return found.reshape(-1, self.pictures, *found.shape[1:])

    def numbered(self, outputs: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return the numbers of an item's objects, int64 ``[*shape]``; of several pictures, each object has its own.

        Args:
            outputs: of `infer` for the item, without their first dimension.
            image: ``[channels, *shape]``.
        """
        begun, found = 0, []
        for said in outputs:
            numbers, scores = self.masks.objects(said, self.most, self._least_score)
            found.append(torch.where(numbers > 0, numbers + begun, 0))
            begun += len(scores)
        return torch.stack(found).reshape(self.settings.shape)

    @property
    def statistics_size(self) -> int:
        """Length of a row of `rows`."""
        return 4 + self._precision.size

    def rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return [1, right, annotated and found objects with the least score, average precision] of each item, float64."""
        return torch.stack([self._row(*pair) for pair in zip(outputs, batch["instances"].cpu(), strict=True)])

    def _row(self, outputs: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        all_scores, all_right, annotated = [], [], 0
        for said, mask in zip(outputs, true.reshape(self.pictures, *true.shape[-2:]), strict=True):
            there, places = torch.unique(
                torch.cat([torch.zeros(1, dtype=mask.dtype), mask.flatten()]), return_inverse=True
            )
            numbers, scores = self.masks.objects(said, self.most, LEAST_RANKED)
            overlap = overlaps(numbers, places[1:].reshape(mask.shape), (len(scores), len(there) - 1))
            all_scores.append(scores)
            all_right.append(matched(overlap, scores, RIGHT))
            annotated += len(there) - 1
        scores, right = torch.cat(all_scores), torch.cat(all_right)
        sure = scores >= self._least_score
        counts = torch.tensor([int((right & sure).sum()), annotated, int(sure.sum())], dtype=torch.float64)
        head = torch.cat([torch.ones(1, dtype=torch.float64), counts / (self.most * self.pictures)])
        return torch.cat([head, self._precision.row(scores, right, annotated)])

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return mask_ap50, f1, recall and precision at an overlap of a half, and the mean count; empty without objects."""
        items, right, annotated, found = totals[:4].tolist()
        precision = self._precision.value(totals[4:])
        if items < 0.5 or precision is None or min(right, annotated, found) < 0 or not annotated:
            return {}
        return {
            "mask_ap50": precision,
            "f1": 2 * right / (annotated + found),
            "recall": right / annotated,
            **({"precision": right / found} if found > 0 else {}),
            "objects": annotated / items * self.most * self.pictures,
        }

    def figures(self, totals: Totals) -> Figures:
        """Return nothing: there is no curve."""
        return Figures()

    @property
    def private_statistics_size(self) -> int:
        """Length of a row of `private_rows`."""
        return SIZE

    def private_rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the count and the `quality` of each item."""
        return private_rows_of(self.quality(self.rows(outputs, batch)))

    def quality(self, rows: torch.Tensor) -> torch.Tensor:
        """Return F1 of each item at an overlap of a half; 1 where nothing is annotated and nothing found."""
        both = rows[:, 2] + rows[:, 3]
        return torch.where(both > 0, 2 * rows[:, 1] / both.clamp(min=1e-12), 1.0)

    def private_metrics(self, totals: Totals, noise_sd: float) -> dict[str, Metric]:
        """Return the mean over items of their quality, named after the task's second headline."""
        return {f"mean_{self.headline[1]}": mean_of(totals, noise_sd)}

    def private_figures(self, totals: Totals, noise_sd: float) -> Figures:
        """Return nothing, as `figures`."""
        return Figures(fitted=True)

    def foretold(self, patients: float, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics of a model with a quality of 0.8."""
        return self.private_metrics(np.array([patients, 0.8 * patients]) / np.sqrt(2), noise_sd)
