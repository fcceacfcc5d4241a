"""Detectors with anchors: every place of the features has boxes of public sizes, which are moved to the objects.

An anchor belongs to the object that it overlaps most, if by at least a half, and each object has its best anchor in any case
(Ren et al. 2015, arXiv 1506.01497). Everything is done for each image by itself.
"""

import functools
import itertools
import math
from typing import Annotated, ClassVar

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.detectors.base import DetectorSettings, Found, best, centres_of, reduced
from salus.common.models.detectors.losses import BOX_WEIGHT, box_errors, shares
from salus.common.optional_torch import constant, torch
from salus.common.optional_torch import functional as F
from salus.common.registry import settings_of

FINEST = 2  # halvings of the resolution at the finest level
POSITIVE, NEGATIVE = 0.5, 0.4
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # Lin et al. 2017, arXiv 1708.02002
LARGEST_SCALE = 4.0  # of the logarithm of a size against its anchor
Pixels = Annotated[float, Field(gt=0, le=4096)]


class AnchorSettings(DetectorSettings):
    """Settings of detectors with anchors.

    Args:
        finest_sizes: Sides of the anchors at a quarter of the resolution, in pixels of task.shape; empty leaves this level out,
            which costs more than the others together.
        fine_sizes, coarse_sizes: Likewise at an eighth and a sixteenth.
        ratios: Height of an anchor divided by its width, at the same area; for volumes anchors are cubes.
    """

    finest_sizes: Annotated[tuple[Pixels, ...], Field(max_length=6)] = ()  # for objects of less than 16 pixels or so
    fine_sizes: Annotated[tuple[Pixels, ...], Field(min_length=1, max_length=6)] = (16.0, 28.0)
    coarse_sizes: Annotated[tuple[Pixels, ...], Field(min_length=1, max_length=6)] = (44.0, 64.0, 92.0)
    ratios: Annotated[tuple[Annotated[float, Field(ge=0.1, le=10)], ...], Field(min_length=1, max_length=5)] = (
        0.8,
        1.25,
    )  # cells and lesions are round


def levels_of(task: TaskSettings) -> dict[int, tuple[float, ...]]:
    """Return the sides of the anchors by the halvings of the resolution, the finest level first."""
    own = settings_of(task, AnchorSettings)
    every = enumerate((own.finest_sizes, own.fine_sizes, own.coarse_sizes), start=FINEST)
    return {halvings: sizes for halvings, sizes in every if sizes}


def anchors_at(task: TaskSettings) -> tuple[int, ...]:
    """Return how many anchors each place has at each level."""
    ratios = len(settings_of(task, AnchorSettings).ratios) if len(task.shape) == 2 else 1
    return tuple(len(sizes) * ratios for sizes in levels_of(task).values())


def anchors_of(task: TaskSettings) -> torch.Tensor:
    """Return all anchors as centre and size, ``[anchors, 2 dims]``: fine level first, at each place its sizes in turn."""
    own, dims = settings_of(task, AnchorSettings), len(task.shape)
    parts = []
    for halvings, sizes in levels_of(task).items():
        if dims == 2:
            pairs: list[tuple[float, ...]] = [(s * r**0.5, s / r**0.5) for s, r in itertools.product(sizes, own.ratios)]
        else:
            pairs = [(s,) * dims for s in sizes]
        shapes, centres = torch.tensor(pairs), centres_of(task.shape, halvings)
        both = [centres[:, None].expand(-1, len(shapes), -1), shapes[None].expand(len(centres), -1, -1)]
        parts.append(torch.cat(both, dim=-1).reshape(-1, 2 * dims))
    return torch.cat(parts)


class AnchorDetector:
    """Outputs are, for each anchor, ``extra`` numbers, a logit for each class, and how to move the anchor."""

    extra: ClassVar[int] = 0

    def __init__(self, task: TaskSettings) -> None:
        self.dims, self.classes = len(task.shape), len(task.classes)
        self.task = task

    @functools.cached_property
    def count(self) -> int:
        """Number of all anchors."""
        levels = zip(levels_of(self.task), anchors_at(self.task), strict=True)
        return sum(each * math.prod(reduced(self.task.shape, halvings)) for halvings, each in levels)

    @constant
    def anchors(self) -> torch.Tensor:
        """All anchors, see `anchors_of`."""
        return anchors_of(self.task)

    @constant
    def corners(self) -> torch.Tensor:
        """All anchors as lowest and highest corner, ``[anchors, 2 dims]``."""
        centre, size = torch.split(self.anchors, self.dims, dim=1)
        return torch.cat([centre - size / 2, centre + size / 2], dim=1)

    @property
    def numbers(self) -> int:
        """Numbers of one anchor."""
        return self.extra + self.classes + 2 * self.dims

    def losses(self, outputs: torch.Tensor, boxes: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return each image's loss, see `base.Detector`."""
        overlap = self._overlaps(boxes[..., :-1], there)
        most, which = overlap.max(dim=2)
        forced = self._best_anchors(overlap, there)
        which = torch.where(forced.any(dim=2), forced.float().argmax(dim=2), which)
        positive = self.positives(most, forced.any(dim=2))
        ignored = ~positive & (most >= NEGATIVE)
        chosen = boxes.gather(1, which[..., None].expand(-1, -1, boxes.shape[2]))
        said, moves = outputs[..., : -2 * self.dims], outputs[..., -2 * self.dims :]
        count = positive.sum(dim=1).clamp(min=1)
        weights = shares(positive, which, boxes.shape[1])
        placed = (box_errors(self.moved(moves), chosen[..., :-1]) * weights).sum(dim=1) / count
        wanted = F.one_hot(chosen[..., -1].round().long().clamp(0, self.classes - 1), self.classes).to(outputs)
        return self.class_losses(said, wanted, weights, ignored, count) + BOX_WEIGHT * placed

    def positives(self, overlap: torch.Tensor, forced: torch.Tensor) -> torch.Tensor:
        """Return which anchors belong to an object, ``[items, anchors]``."""
        return forced | (overlap >= POSITIVE)

    def class_losses(
        self,
        said: torch.Tensor,
        wanted: torch.Tensor,
        weights: torch.Tensor,
        ignored: torch.Tensor,
        count: torch.Tensor,
    ) -> torch.Tensor:
        """Return each image's loss of what the anchors hold, ``[items]``.

        Args:
            said: ``[items, anchors, extra + classes]``.
            wanted: the class of each anchor's object, one-hot ``[items, anchors, classes]``.
            weights: ``[items, anchors]``, see `shares`; 0 for anchors without an object.
            ignored: ``[items, anchors]``.
            count: positive anchors of each image, at least 1.
        """
        raise NotImplementedError

    def scores(self, said: torch.Tensor) -> torch.Tensor:
        """Return the score of each class, ``[anchors, classes]``, from 0 to 1."""
        raise NotImplementedError

    def found(self, outputs: torch.Tensor, most: int, nms_overlap: float) -> Found:
        """Return the objects of one image, see `base.Detector`."""
        said, moves = outputs[:, : -2 * self.dims], outputs[:, -2 * self.dims :]
        return best(self.moved(moves), self.scores(said), most, nms_overlap)

    def moved(self, moves: torch.Tensor) -> torch.Tensor:
        """Return the boxes that moved anchors are, ``[anchors, 2 dims]``."""
        shift, ratio = torch.split(moves, self.dims, dim=-1)
        centre, size = torch.split(self.anchors.to(moves), self.dims, dim=-1)
        middle = centre + shift.clamp(-LARGEST_SCALE, LARGEST_SCALE) * size
        half = size * ratio.clamp(-LARGEST_SCALE, LARGEST_SCALE).exp() / 2
        return torch.cat([middle - half, middle + half], dim=-1)

    def _overlaps(self, boxes: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return intersection over union ``[items, anchors, most]``; 0 for objects that are not there."""
        anchors, dims = self.corners.to(boxes)[None, :, None], self.dims
        others = boxes[:, None]
        shared = boxes.new_ones(())
        sizes = [shared, shared]
        for axis in range(dims):  # axis by axis, several times as fast as with the axes as the last dimension
            low = torch.maximum(anchors[..., axis], others[..., axis])
            high = torch.minimum(anchors[..., dims + axis], others[..., dims + axis])
            shared = (high - low).clamp(min=0) * shared
            sides = [(b[..., dims + axis] - b[..., axis]).clamp(min=0) for b in (anchors, others)]
            sizes = [side * size for side, size in zip(sides, sizes, strict=True)]
        return shared / (sizes[0] + sizes[1] - shared).clamp(min=1e-6) * there[:, None]

    def _best_anchors(self, overlap: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return which anchor is the best of which object, boolean ``[items, anchors, most]``."""
        top = overlap.argmax(dim=1, keepdim=True)
        places = torch.arange(overlap.shape[1], device=overlap.device)[None, :, None]
        return (places == top) & (there[:, None] > 0) & (overlap.amax(dim=1, keepdim=True) > 0)


class Focal(AnchorDetector):
    """RetinaNet: an independent yes or no for each class, with the focal loss (Lin et al. 2017, arXiv 1708.02002)."""

    def class_losses(
        self,
        said: torch.Tensor,
        wanted: torch.Tensor,
        weights: torch.Tensor,
        ignored: torch.Tensor,
        count: torch.Tensor,
    ) -> torch.Tensor:
        """Return the focal loss over all anchors but the ignored ones, divided by the positive ones."""
        positive = weights > 0
        truth = wanted * positive[..., None]
        plain = F.binary_cross_entropy_with_logits(said, truth, reduction="none")
        p = torch.sigmoid(said)
        right = p * truth + (1 - p) * (1 - truth)
        alpha = FOCAL_ALPHA * truth + (1 - FOCAL_ALPHA) * (1 - truth)
        each = (alpha * (1 - right) ** FOCAL_GAMMA * plain).sum(dim=2)
        return (each * torch.where(positive, weights, (~ignored).to(each))).sum(dim=1) / count

    def scores(self, said: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(said)


class Softmax(AnchorDetector):
    """SSD: one class or background for each anchor, with the hardest negatives only (Liu et al. 2016, arXiv 1512.02325)."""

    extra = 1
    negatives: ClassVar[int] = 3  # for each positive anchor, as in the paper

    def class_losses(
        self,
        said: torch.Tensor,
        wanted: torch.Tensor,
        weights: torch.Tensor,
        ignored: torch.Tensor,
        count: torch.Tensor,
    ) -> torch.Tensor:
        """Return the cross-entropy of the positive anchors and of three times as many negatives with the largest loss."""
        logs, positive = F.log_softmax(said, dim=2), weights > 0
        background = -logs[..., 0]
        hard = torch.where(positive | ignored, torch.full_like(background, -1.0), background.detach())
        rank = hard.argsort(dim=1, descending=True).argsort(dim=1)
        taken = (rank < self.negatives * count[:, None]) & (hard >= 0)
        objects = -(logs[..., 1:] * wanted).sum(dim=2)
        return ((objects * weights).sum(dim=1) + (background * taken).sum(dim=1)) / count

    def scores(self, said: torch.Tensor) -> torch.Tensor:
        return torch.softmax(said, dim=1)[:, 1:]


class Objectness(AnchorDetector):
    """YOLO-style: each object has one anchor, which says that it holds an object and of which class (after Redmon and Farhadi
    2018, arXiv 1804.02767)."""

    extra = 1
    absent: ClassVar[float] = 0.2  # weight of anchors without an object: there are thousands of them

    def positives(self, overlap: torch.Tensor, forced: torch.Tensor) -> torch.Tensor:
        """Return the best anchor of each object only."""
        return forced

    def class_losses(
        self,
        said: torch.Tensor,
        wanted: torch.Tensor,
        weights: torch.Tensor,
        ignored: torch.Tensor,
        count: torch.Tensor,
    ) -> torch.Tensor:
        """Return the cross-entropy of objectness, without the ignored anchors, and of the classes of the positive ones."""
        positive = weights > 0
        truth = positive.to(said)
        plain = F.binary_cross_entropy_with_logits(said[..., 0], truth, reduction="none")
        counted = torch.where(positive, torch.ones_like(plain), self.absent * ~ignored)
        classes = F.binary_cross_entropy_with_logits(said[..., 1:], wanted, reduction="none").sum(dim=2)
        return ((plain * counted).sum(dim=1) + (classes * positive).sum(dim=1)) / count

    def scores(self, said: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(said[:, :1]) * torch.sigmoid(said[:, 1:])
