"""CornerNet: objects as pairs of corners, found on two heat maps and paired by a number that both say (Law and Deng 2018,
arXiv 1808.01244; the numbers after Newell et al. 2017, arXiv 1611.05424). 2-D only.

Outputs are, for each place at a quarter of the resolution, first for low and then for high corners: a logit for each class,
the number, and where the corner lies within the place. Unlike in the paper, overlapping boxes of one class are suppressed as for
the other detectors, and there is one resolution only. Crowded objects of one class are its weak point: their corners are close to
one another, and one number for each must tell them apart.
"""

import math

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.models.blocks import normalised
from salus.common.models.detectors.base import (
    RANKED,
    Backbone,
    DetectorSettings,
    Found,
    best,
    centres_of,
    reduced,
)
from salus.common.models.detectors.centres import ALPHA, BETA, HALVINGS
from salus.common.models.detectors.networks import RARE, with_detector
from salus.common.optional_torch import constant, nn, torch
from salus.common.optional_torch import functional as F
from salus.common.registry import settings_of, with_settings

STEP = 2.0**HALVINGS
SIGMA = 0.1  # of an object's size: the heat map's width; a corner off by this still gives an overlap of two thirds
EMBEDDING_WEIGHT = 0.1  # of each of the two losses of the numbers, as in the paper
MARGIN = 1.0  # between the numbers of two objects, as in the paper
SAME = 0.5  # two corners whose numbers differ by less are of one object, as in the paper
CORNERS = 100  # of each heat map that are paired, as in the paper


class CornerDetector:
    """The meaning of CornerNet's outputs.

    Raises:
        JobError: images that are not 2-D.
    """

    def __init__(self, task: TaskSettings) -> None:
        if len(task.shape) != 2:
            raise JobError(
                f"Expected 2-D images for the model cornernet, got a task.shape of {list(task.shape)}.",
                remedy="Use centernet or retinanet for volumes.",
            )
        self.classes = len(task.classes)
        self.sides = reduced(task.shape, HALVINGS)
        self.shape = task.shape

    @constant
    def places(self) -> torch.Tensor:
        """The centre of each place of the features, in places, ``[places, dims]``; the middle of the first is at 0.5."""
        return centres_of(self.shape, HALVINGS) / STEP

    @property
    def numbers(self) -> int:
        """Numbers of one corner of one place."""
        return self.classes + 3

    def losses(self, outputs: torch.Tensor, boxes: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return each image's loss, see `base.Detector`."""
        ends = torch.split(boxes[..., :-1] / STEP, 2, dim=-1)
        size = (ends[1] - ends[0]).clamp(min=0.25)
        kinds = F.one_hot(boxes[..., -1].round().long().clamp(0, self.classes - 1), self.classes).to(outputs)
        count = there.sum(dim=1).clamp(min=1)
        total, numbers = torch.zeros_like(count), []
        for said, corner in zip(torch.split(outputs, self.numbers, dim=2), ends, strict=True):
            at, shift = self._placed(corner)
            mine = said[..., self.classes :].gather(1, at[..., None].expand(-1, -1, 3))  # at the corner of each object
            error = (mine[..., 1:] - shift).abs().sum(dim=2)
            total = total + self._heat(said[..., : self.classes], corner, size, kinds, at, there)
            total = total + (error * there).sum(dim=1) / count
            numbers.append(mine[..., 0])
        return total + EMBEDDING_WEIGHT * _paired(numbers[0], numbers[1], there)

    def _placed(self, corner: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the place of each corner ``[items, most]`` and the corner from its middle ``[items, most, 2]``, in places."""
        last = torch.tensor(self.sides, device=corner.device) - 1
        place = torch.minimum(corner.floor().long().clamp(min=0), last)
        return place[..., 0] * self.sides[1] + place[..., 1], corner - place - 0.5

    def _heat(
        self,
        said: torch.Tensor,
        corner: torch.Tensor,
        size: torch.Tensor,
        kinds: torch.Tensor,
        at: torch.Tensor,
        there: torch.Tensor,
    ) -> torch.Tensor:
        """Return each image's focal loss of one heat map; every class counts once, however many objects it has."""
        offset = corner[:, None] - self.places.to(said)[None, :, None]  # [items, places, most, 2]
        near = torch.exp(-0.5 * (offset / (SIGMA * size).clamp(min=0.5)[:, None]).square().sum(dim=-1)) * there[:, None]
        wanted = (near[..., None] * kinds[:, None]).amax(dim=2)
        exact = (torch.arange(len(self.places), device=at.device)[None, :, None] == at[:, None]) & (there[:, None] > 0)
        peaks = (exact[..., None] * kinds[:, None]).amax(dim=2) > 0
        p = torch.sigmoid(said)
        right, wrong = (1 - p) ** ALPHA * F.logsigmoid(said), (1 - wanted) ** BETA * p**ALPHA * F.logsigmoid(-said)
        objects = (kinds * there[..., None]).sum(dim=1).clamp(min=1)  # of each class
        return -(torch.where(peaks, right, wrong).sum(dim=1) / objects).sum(dim=1)

    def found(self, outputs: torch.Tensor, most: int, nms_overlap: float) -> Found:
        """Return the objects of one image, see `base.Detector`."""
        (low, kinds, first, one), (high, others, second, other) = (
            self._corners(said) for said in torch.split(outputs, self.numbers, dim=1)
        )
        pairs = (kinds[:, None] == others[None]) & ((first[:, None] - second[None]).abs() < SAME)
        pairs = pairs & (high[None] > low[:, None]).all(dim=2)
        scores = torch.where(pairs, (one[:, None] + other[None]) / 2, torch.zeros(())).flatten()
        scores, taken = scores.topk(min(RANKED, len(scores)))
        scores, taken = scores[scores > 0], taken[scores > 0]
        boxes = torch.cat([low[taken // len(high)], high[taken % len(high)]], dim=1)
        classes = F.one_hot(kinds[taken // len(high)], self.classes).to(scores)
        return best(boxes, scores[:, None] * classes, most, nms_overlap)

    def _corners(self, said: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the best corners of one heat map: where in pixels ``[corners, 2]``, their classes, numbers and scores."""
        maps = torch.sigmoid(said[:, : self.classes]).T.reshape(1, self.classes, *self.sides)
        peaks = F.max_pool2d(maps, 3, stride=1, padding=1) == maps
        scores, taken = (maps * peaks).flatten().topk(min(CORNERS, maps.numel()))
        kinds, places = taken // len(self.places), taken % len(self.places)
        shift = said[places, self.classes + 1 :].clamp(-2, 2)
        return (self.places[places] + shift) * STEP, kinds, said[places, self.classes], scores


def _paired(low: torch.Tensor, high: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Return each image's loss of the numbers ``[items, most]``: equal at an object's two corners, apart between objects."""
    count, mean = there.sum(dim=1), (low + high) / 2
    pull = (((low - mean).square() + (high - mean).square()) * there).sum(dim=1) / count.clamp(min=1)
    both = there[:, :, None] * there[:, None] * (1 - torch.eye(there.shape[1], device=there.device, dtype=there.dtype))
    apart = (MARGIN - (mean[:, :, None] - mean[:, None]).abs()).clamp(min=0)
    return pull + (apart * both).sum(dim=(1, 2)) / (count * (count - 1)).clamp(min=1)


class Corners(nn.Module):
    """One kind of corner: the largest features from each place on along both axes, as the borders of an object are there.

    Args:
        low: whether of low corners, from which borders go on to larger positions.
    """

    def __init__(self, width: int, numbers: int, classes: int, *, low: bool) -> None:
        super().__init__()
        inner = max(8, width // 2)
        self.low = low
        self.along = nn.ModuleList(normalised(2, width, inner, 3) for _ in range(2))
        self.join = normalised(2, inner, inner, 3)
        self.last = nn.Conv2d(inner, numbers, 1)
        nn.init.normal_(self.last.weight, std=0.01)
        assert self.last.bias is not None  # Safe because it was just made.
        nn.init.zeros_(self.last.bias)
        with torch.no_grad():
            self.last.bias[:classes] = -math.log((1 - RARE) / RARE)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return ``[items, places, numbers]``."""
        pooled = [largest(layer(features), axis, on=self.low) for axis, layer in zip((2, 3), self.along, strict=True)]
        found: torch.Tensor = self.last(self.join(pooled[0] + pooled[1]))
        return found.flatten(2).transpose(1, 2)


def largest(values: torch.Tensor, axis: int, *, on: bool) -> torch.Tensor:
    """Return at each place the largest value from there on along an axis, or up to there."""
    if on:
        return values.flip(axis).cummax(axis).values.flip(axis)
    return values.cummax(axis).values


class CornerNetwork(nn.Module):
    """``[items, channels, *shape]`` to ``[items, places, numbers of low corners, of high ones]``."""

    def __init__(self, task: TaskSettings, own: DetectorSettings) -> None:
        super().__init__()
        meaning = CornerDetector(task)
        self.backbone = Backbone(task, own, (HALVINGS,))
        self.corners = nn.ModuleList(
            Corners(own.neck_width, meaning.numbers, meaning.classes, low=low) for low in (True, False)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return what `CornerDetector` understands."""
        features = self.backbone(image)[0]
        return torch.cat([corners(features) for corners in self.corners], dim=2)


@with_detector(CornerDetector)
@with_settings(DetectorSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return CornerNet, 2-D."""
    return CornerNetwork(task, settings_of(task, DetectorSettings))
