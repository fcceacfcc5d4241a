"""Segmentation: a class for every voxel of 2-D and 3-D images, for one structure, several, or structures that may overlap.

The outputs of a network are logits ``[items, channels, *spatial]``, see `losses.base`; with deep supervision, in training
only, ``[items, heads, channels, *spatial]``.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field as Limits

from salus.common.batch import Batch, Field, Spec
from salus.common.errors import DataError, JobError, UnreadableImage
from salus.common.estimates import Metric
from salus.common.examples import Array, Example
from salus.common.figures import Figures
from salus.common.job import TaskSettings
from salus.common.losses import make_loss
from salus.common.metrics.coarse_dice import CoarseDice
from salus.common.metrics.overlap import Overlap
from salus.common.metrics.surface import Surface
from salus.common.optional_torch import torch
from salus.common.registry import Registry, settings_of
from salus.common.strict import Strict
from salus.common.tasks.base import ONE_STEP, Step, Totals, full
from salus.common.transforms.chain import Chain
from salus.common.transforms.intensity import Rescale
from salus.common.transforms.resizing import Resize

MAX_OUTPUTS = 2**30  # numbers that a network may give for one image of any size: 4 GB, and copies of it for the metrics
LOSS_LIMIT = 20.0  # one item's loss counts at most this, so that its share of the statistic is at most 1
AXES = ("z", "y", "x")
DEFAULT_CHAIN = (Resize.Settings(), Rescale.Settings())  # to the job's shape, grey values from 0 .. 1 to -1 .. 1


class SegmentationSettings(Strict):
    """Settings of a segmentation; the loss adds keys of its own.

    Args:
        loss: What training minimises, such as `dice-ce`, `dice` or `focal`.
        multi_label: Whether structures may overlap, so that a voxel may belong to several.
        window_overlap: Share by which neighbouring windows overlap where an image is larger than `shape`.
        test_flips: Axes along which images are also flipped in evaluation and prediction; the outputs are averaged.
        surface_tolerance_mm: Largest distance between two surfaces that surface Dice counts as agreement.
    """

    plugins: ClassVar[Mapping[str, str | Registry]] = {"loss": "salus.common.losses:LOSSES"}

    loss: Annotated[str, Limits(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = "dice-ce"  # robust for most structures
    multi_label: bool = False
    window_overlap: Annotated[float, Limits(ge=0, le=0.9)] = (
        0.5  # as in nnU-Net; 0.25 takes about a third of the time in 3-D
    )
    test_flips: tuple[Literal["z", "y", "x"], ...] = ()  # each axis doubles the time; left and right may differ
    surface_tolerance_mm: Annotated[float, Limits(gt=0, le=100)] = 2.0  # about the disagreement of two readers


class Segmentation:
    """One mask per image, with the structures `settings.classes` in the order of the mask's numbers 1, 2 ..."""

    Settings: ClassVar[type[Strict]] = SegmentationSettings
    annotations: ClassVar[Mapping[str, str]] = {"mask": "mask"}  # what a data set must have, and of which kind
    steps = ONE_STEP
    any_size = True  # larger images are predicted window by window

    def __init__(self, settings: TaskSettings) -> None:
        if len(settings.shape) not in (2, 3) or not settings.classes:
            raise JobError(
                "Expected at least one structure in task.classes and 2 or 3 sides in task.shape for segmentation, "
                f"got classes {list(settings.classes)} and shape {list(settings.shape)}.",
                remedy='Write for example "shape = [64, 64]" and "classes = ["liver", "tumour"]".',
            )
        self.settings = settings
        self._own = settings_of(settings, SegmentationSettings)
        self._loss = make_loss(self._own.loss, settings)
        structures = settings.classes
        self._overlap, self._coarse = Overlap(structures), CoarseDice(structures)
        self._surface = Surface(structures, self._own.surface_tolerance_mm)
        axes = AXES[-len(settings.shape) :]
        if set(self._own.test_flips) - set(axes):
            raise JobError(f"Expected task.test_flips from {', '.join(axes)}.", remedy="Remove the others.")
        self._flips = _subsets([2 + axes.index(axis) for axis in self._own.test_flips])
        self.chain = Chain.of(settings.transforms or DEFAULT_CHAIN, settings)
        self.headline = ("dice_mean", *(f"dice_{name}" for name in structures))

    @property
    def spec(self) -> Spec:
        """Image and mask on one grid of the job's shape, and the grid's spacing in millimetres, 1 where it is unknown."""
        shape, structures = self.settings.shape, len(self.settings.classes)
        masks, numbers = (structures, 2) if self._own.multi_label else (1, structures + 1)
        return {
            "image": Field((self.settings.channels, *shape), spatial=True),
            "mask": Field((masks, *shape), "int64", 0, numbers, spatial=True),
            "spacing": Field((len(shape),)),
        }

    def prepare(self, example: Example) -> dict[str, torch.Tensor]:
        """Return the fields of one item; without a mask only the image and its spacing.

        Raises:
            DataError: images of another number of channels or dimensions than the job's.
            UnreadableImage: the mask does not fit the job, or the image is too large for the number of structures.
        """
        dimensions, channels = len(self.settings.shape), self.settings.channels
        if example["image"].ndim != dimensions + 1 or len(example["image"]) != channels:
            raise DataError(
                f"Expected images of {channels} channel(s) and {dimensions} dimensions, "
                f"got {len(example['image'])} and {example['image'].ndim - 1}.",
                remedy="Use a job that fits this data set, or register another data set under its name.",
            )
        if example["image"][0].size * (len(self.settings.classes) + 1) > MAX_OUTPUTS:
            raise UnreadableImage("too-large", "it has too many voxels for the number of the job's structures")
        spacing = example.spacing_mm[-dimensions:] or (1.0,) * dimensions
        fields = {
            "image": torch.from_numpy(np.ascontiguousarray(example["image"], dtype=np.float32)),
            "spacing": torch.tensor(spacing, dtype=torch.float32),
        }
        return {**fields, "mask": torch.from_numpy(self._mask(example["mask"]))} if "mask" in example else fields

    def _mask(self, found: Array) -> Array:
        """Return a mask as the job has it: class numbers ``[1, *spatial]``, or a channel for each structure."""
        mask, structures = np.ascontiguousarray(found, dtype=np.int64), len(self.settings.classes)
        if len(mask) not in (1, structures) or mask.min(initial=0) < 0 or mask.max(initial=0) > structures:
            raise UnreadableImage("bad-mask", "its mask has other structures than the job")
        if not self._own.multi_label and len(mask) != 1:
            raise UnreadableImage("overlapping-structures", "its structures may overlap, which this job does not allow")
        if self._own.multi_label and len(mask) == 1 and structures > 1:
            # Class numbers are masks that happen not to overlap.
            mask = (mask == np.arange(1, structures + 1).reshape(-1, *[1] * (mask.ndim - 1))).astype(np.int64)
        return mask

    def wanted(self, mask: torch.Tensor) -> torch.Tensor:
        """Return ``[items, structures, *spatial]``, boolean, from the batch's field."""
        if self._own.multi_label:
            return mask > 0
        numbers = torch.arange(1, len(self.settings.classes) + 1, device=mask.device)
        return mask == numbers.reshape(1, -1, *[1] * (mask.dim() - 2))

    def predicted(self, logits: torch.Tensor) -> torch.Tensor:
        """Return ``[items, structures, *spatial]``, boolean, from a network's outputs."""
        if logits.shape[1] == len(self.settings.classes):
            return logits > 0
        return self.wanted(logits.argmax(dim=1, keepdim=True))

    def losses(self, model: torch.nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        """Return the loss of each item; with deep supervision coarser outputs count half as much each (as in nnU-Net)."""
        outputs = full(model(batch["image"]))
        wanted = self.wanted(batch["mask"]).to(outputs)
        if outputs.dim() == wanted.dim():
            return self._loss(outputs, wanted)
        shares = [0.5**head for head in range(outputs.shape[1])]
        each = [share * self._loss(outputs[:, head], wanted) for head, share in enumerate(shares)]
        return torch.stack(each).sum(dim=0) / sum(shares)

    def infer(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return logits for images of any size, in windows of the job's shape where they are larger.

        Windows are weighted by a Gaussian, so that their borders count less (Isensee et al. 2021).
        """
        images = batch["image"]
        total = self._windows(model, images)
        for axes in self._flips:
            total = total + self._windows(model, images.flip(axes)).flip(axes)
        return total / (1 + len(self._flips))

    def _windows(self, model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        shape = self.settings.shape
        if tuple(images.shape[2:]) == shape:
            outputs: torch.Tensor = model(images)
            return full(outputs)
        from monai.inferers import utils

        found = utils.sliding_window_inference(
            images, shape, sw_batch_size=1, predictor=model, overlap=self._own.window_overlap, mode="gaussian"
        )
        assert isinstance(found, torch.Tensor)  # Safe because in evaluation a network has one output.
        return full(found)

    @property
    def statistics_size(self) -> int:
        """Length of a row of `rows`."""
        return 2 + self._overlap.size + self._surface.size

    def rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return [1, loss, overlap, surface distances] of each item, float64."""
        logits = outputs.detach().double().cpu()
        wanted = self.wanted(batch["mask"].cpu())
        losses = torch.nan_to_num(self._loss(logits, wanted.double()), LOSS_LIMIT).clamp(0, LOSS_LIMIT) / LOSS_LIMIT
        predicted = self.predicted(logits)
        parts = [self._overlap.rows(predicted, wanted), self._surface.rows(predicted, wanted, batch["spacing"])]
        return torch.cat([torch.ones(len(logits), 1, dtype=torch.float64), losses[:, None], *parts], dim=1)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return dice_mean, loss, and for each structure what `Overlap` and `Surface` give; empty without items."""
        if totals[0] < 0.5:
            return {}
        overlap, surface = np.split(totals[2:], [self._overlap.size])
        found = self._overlap.metrics(overlap)
        return {**found, **self._surface.metrics(surface), "loss": float(totals[1] * LOSS_LIMIT / totals[0])}

    def figures(self, totals: Totals) -> Figures:
        """Return nothing: there is no curve of a segmentation."""
        return Figures()

    @property
    def private_statistics_size(self) -> int:
        """Length of a row of `private_rows`."""
        return self._coarse.size

    def private_rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the rows of `CoarseDice`."""
        return self._coarse.rows(self.predicted(outputs.detach().cpu()), self.wanted(batch["mask"].cpu()))

    def private_metrics(self, totals: Totals, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics of `CoarseDice`."""
        return self._coarse.metrics(totals, noise_sd)

    def private_figures(self, totals: Totals, noise_sd: float) -> Figures:
        """Return nothing, as `figures`."""
        return Figures()

    def foretold(self, patients: float, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics of a model with a Dice of 0.8."""
        return self._coarse.foretold(patients, noise_sd)


def _subsets(axes: list[int]) -> list[list[int]]:
    """Return every non-empty choice of axes."""
    chosen: list[list[int]] = [[]]
    for axis in dict.fromkeys(axes):
        chosen += [[*others, axis] for others in chosen]
    return chosen[1:]
