"""Faster R-CNN: a first stage proposes boxes, a second one looks at each of them (Ren et al. 2015, arXiv 1506.01497).

Features of a proposal are sampled between places, as by the ROI-align of Mask R-CNN (He et al. 2017, arXiv 1703.06870). Unlike in
the paper, the first stage has the focal loss and all proposals train the second one, so nothing is drawn; and true boxes are not
added to the proposals, because a network sees images only.

Outputs are the anchors, each a logit and how to move it, and behind them the proposals: corners, a logit for background and each
class, and how to move the proposal. Shorter rows end with zeros.
"""

from typing import Annotated

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.detectors.anchors import (
    LARGEST_SCALE,
    POSITIVE,
    AnchorSettings,
    Focal,
    anchors_at,
    levels_of,
)
from salus.common.models.detectors.base import Backbone, Found, best
from salus.common.models.detectors.losses import BOX_WEIGHT, box_errors
from salus.common.models.detectors.networks import Head, with_detector
from salus.common.models.outputs import dimensions
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings

SAMPLES = {2: 5, 3: 3}  # points along each axis of a proposal, by dimensions
CANDIDATES = 4  # for each proposal, so many of the best anchors are compared with one another
PROPOSAL_OVERLAP = 0.7  # as in the paper


class TwoStageSettings(AnchorSettings):
    """Settings of a detector with two stages.

    Args:
        proposals: Boxes of an image that the second stage looks at.
        hidden: Width of the second stage.
    """

    proposals: Annotated[int, Field(ge=4, le=512)] = 64  # a few times the objects of an image
    hidden: Annotated[int, Field(ge=4, le=1024)] = 128


class Proposer(Focal):
    """The first stage: whether an anchor holds an object of any class."""

    def __init__(self, task: TaskSettings) -> None:
        super().__init__(task)
        self.classes = 1

    def proposals(self, outputs: torch.Tensor, count: int) -> torch.Tensor:
        """Return the best boxes that overlap no better one too much, ``[items, count, 2 dims]``; then the best of the others.

        Args:
            outputs: ``[items, anchors, 1 + 2 dims]``.
        """
        scores, places = outputs[..., 0].topk(min(CANDIDATES * count, outputs.shape[1]), dim=1)
        boxes = self.moved(outputs[..., 1:])
        boxes = boxes.gather(1, places[..., None].expand(-1, -1, boxes.shape[2]))
        close = overlaps(boxes, boxes) > PROPOSAL_OVERLAP
        later = torch.ones_like(close[0]).triu(1)
        kept = torch.ones_like(scores, dtype=torch.bool)
        for place in range(boxes.shape[1]):
            kept = kept & ~(close[:, place] & later[place] & kept[:, place, None])
        order = kept.to(scores).argsort(dim=1, descending=True, stable=True)[:, :count]
        return boxes.gather(1, order[..., None].expand(-1, -1, boxes.shape[2]))


class TwoStage:
    """The meaning of the outputs of both stages."""

    def __init__(self, task: TaskSettings) -> None:
        self.first = Proposer(task)
        self.dims, self.classes = len(task.shape), len(task.classes)

    @property
    def numbers(self) -> int:
        """Numbers of one row."""
        return 4 * self.dims + 1 + self.classes

    def split(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the first stage's outputs, and the proposals with their logits and how they are moved."""
        anchors, ends = len(self.first.anchors), 2 * self.dims
        rows = outputs[..., anchors:, :]
        logits, moves = rows[..., ends : ends + 1 + self.classes], rows[..., ends + 1 + self.classes :]
        return outputs[..., :anchors, : 1 + ends], rows[..., :ends].detach(), logits, moves

    def losses(self, outputs: torch.Tensor, boxes: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return each image's loss of both stages, see `base.Detector`."""
        first, proposals, logits, _ = self.split(outputs)
        any_class = torch.cat([boxes[..., :-1], torch.zeros_like(boxes[..., -1:])], dim=-1)
        overlap, which = (overlaps(proposals, boxes[..., :-1]) * there[:, None]).max(dim=2)
        right = overlap >= POSITIVE
        chosen = boxes.gather(1, which[..., None].expand(-1, -1, boxes.shape[2]))
        kinds = chosen[..., -1].round().long().clamp(0, self.classes - 1) + 1
        wanted = F.one_hot(torch.where(right, kinds, 0), 1 + self.classes).to(logits)
        said = -(F.log_softmax(logits, dim=2) * wanted).sum(dim=2).mean(dim=1)
        error = box_errors(self.moved(outputs)[0], chosen[..., :-1])
        placed = (error * right).sum(dim=1) / right.sum(dim=1).clamp(min=1)
        return self.first.losses(first, any_class, there) + said + BOX_WEIGHT * placed

    def found(self, outputs: torch.Tensor, most: int, nms_overlap: float) -> Found:
        """Return the objects of one image, see `base.Detector`."""
        boxes, logits = self.moved(outputs)
        return best(boxes, logits.softmax(dim=1)[:, 1:], most, nms_overlap)

    def moved(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the moved proposals ``[..., proposals, 2 dims]``, and their logits for background and each class."""
        _, proposals, logits, moves = self.split(outputs)
        low, high = torch.split(proposals, self.dims, dim=-1)
        shift, ratio = torch.split(moves.clamp(-LARGEST_SCALE, LARGEST_SCALE), self.dims, dim=-1)
        size = (high - low).clamp(min=0)  # corners of a diverged model may be exchanged
        middle, half = (low + high) / 2 + shift * size, size * ratio.exp() / 2
        return torch.cat([middle - half, middle + half], dim=-1), logits


class TwoStageNetwork(nn.Module):
    """``[items, channels, *shape]`` to ``[items, anchors + proposals, numbers]``."""

    def __init__(self, task: TaskSettings, own: TwoStageSettings) -> None:
        super().__init__()
        self.meaning, self.count, dims = TwoStage(task), own.proposals, dimensions(task)
        self.samples = SAMPLES[dims]
        levels = tuple(levels_of(task))
        self.step = 2.0 ** levels[0]  # pixels of a place of the features that the second stage sees, the finest ones
        self.backbone = Backbone(task, own, levels)
        self.propose = Head(dims, own.neck_width, anchors_at(task), 1 + 2 * dims, (0, 1))
        second = 1 + len(task.classes) + 2 * dims
        width = own.neck_width * self.samples**dims
        self.look = nn.Sequential(
            nn.Linear(width, own.hidden), nn.LayerNorm(own.hidden), nn.ReLU(), nn.Linear(own.hidden, second)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return what `TwoStage` understands."""
        return self.boxes(self.backbone(image))

    def boxes(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Return what `TwoStage` understands, from the features of the backbone."""
        first = self.propose(features)
        proposals = self.meaning.first.proposals(first.detach(), self.count)
        second = self.look(aligned(features[0], proposals, self.samples, self.step))
        rows = torch.cat([proposals, second], dim=2)
        return torch.cat([F.pad(first, (0, rows.shape[2] - first.shape[2])), rows], dim=1)


def aligned(features: torch.Tensor, boxes: torch.Tensor, samples: int, step: float) -> torch.Tensor:
    """Return the features at evenly spread points of each box, ``[items, boxes, channels * samples**dims]``.

    Args:
        features: ``[items, channels, *grid]`` with `step` pixels to a place.
        boxes: ``[items, boxes, 2 dims]`` in pixels; points outside of the image take the features at its border.
    """
    dims, grid = boxes.shape[2] // 2, features.shape[2:]
    low, high = (part.reshape(*boxes.shape[:2], *[1] * dims, dims) for part in torch.split(boxes, dims, dim=2))
    axis = (torch.arange(samples, device=boxes.device, dtype=boxes.dtype) + 0.5) / samples
    inside = torch.stack(torch.meshgrid(*[axis] * dims, indexing="ij"), dim=-1)
    extent = torch.tensor(grid, device=boxes.device, dtype=boxes.dtype) * step
    points = (2 * (low + inside * (high - low)) / extent - 1).flip(-1)  # torch wants x first
    wide = points.reshape(len(boxes), -1, *[samples] * (dims - 1), dims)
    found = F.grid_sample(features, wide, mode="bilinear", padding_mode="border", align_corners=False)
    return found.reshape(*found.shape[:2], boxes.shape[1], -1).transpose(1, 2).flatten(2)


def overlaps(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return intersection over union ``[items, n, m]`` of ``[items, n, 2 dims]`` and ``[items, m, 2 dims]``."""
    dims, a, b = one.shape[2] // 2, one[:, :, None], other[:, None]
    low, high = torch.maximum(a[..., :dims], b[..., :dims]), torch.minimum(a[..., dims:], b[..., dims:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    sizes = [(box[..., dims:] - box[..., :dims]).clamp(min=0).prod(dim=-1) for box in (a, b)]
    return shared / (sizes[0] + sizes[1] - shared).clamp(min=1e-6)


@with_detector(TwoStage)
@with_settings(TwoStageSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return Faster R-CNN, 2-D or 3-D."""
    return TwoStageNetwork(task, settings_of(task, TwoStageSettings))
