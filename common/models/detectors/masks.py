"""Mask R-CNN: boxes in two stages, and a mask of the object within each box (He et al. 2017, arXiv 1703.06870).

The mask is that of the box as the second stage moves it, in training, too, where the paper takes proposals. It knows no class: a
job of `instances` has one kind of object, for which a mask of each class is the same. Features of a mask are at a half of the
resolution, so that it is as fine as small objects are; the paper's are those of the box. Nothing is drawn, and everything is done
for each picture by itself; all proposals train the boxes, those that overlap an object by a half train the masks.

Outputs of a picture are the rows of `two_stage` behind each other, and then the logits of each proposal's mask.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.models.blocks import convolution, normalised
from salus.common.models.detectors.anchors import POSITIVE
from salus.common.models.detectors.two_stage import TwoStage, TwoStageNetwork, TwoStageSettings, aligned, overlaps
from salus.common.models.object_masks import LEAST_PIXELS, kept_objects, with_masks
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings
from salus.common.tasks.centres import pixels

STEP = 2.0  # pixels of a place of the features that masks see
HALF = 0.5
SEEN = 0.5  # of a mask's pixels; what is mostly behind other masks was found twice (Kirillov et al. 2019, arXiv 1801.00868)


class MaskSettings(TwoStageSettings):
    """Settings of Mask R-CNN.

    Args:
        mask_size: Points of a mask along each side of its box.
        mask_width: Channels of the features that masks see.
        box_overlap: Of two found boxes that overlap by more than this, the one with the lower score is dropped.
    """

    mask_size: Annotated[int, Field(ge=4, le=28)] = (
        14  # a point for each pixel of a cell; the paper has 28 for everyday objects
    )
    mask_width: Annotated[int, Field(ge=4, le=128)] = 16  # each proposal of each image runs through these
    box_overlap: Annotated[float, Field(gt=0, lt=1)] = 0.5  # as usual


def of_pictures(task: TaskSettings) -> TaskSettings:
    """Return the task of the single pictures of a clip or volume."""
    return task.changed(shape=task.shape[-2:], transforms=())


class RegionMasks:
    """The meaning of the outputs, see `object_masks.ObjectMasks`."""

    def __init__(self, task: TaskSettings) -> None:
        own = settings_of(task, MaskSettings)
        self.shape = task.shape[-2:]
        self.boxes, self.size, self.box_overlap = TwoStage(of_pictures(task)), own.mask_size, own.box_overlap
        self.proposals = min(own.proposals, self.boxes.first.count)

    def split(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows of `two_stage`, ``[..., anchors + proposals, numbers]``, and masks ``[..., proposals, size, size]``."""
        rows = self.boxes.first.count + self.proposals
        end, lead = rows * self.boxes.numbers, outputs.shape[:-1]
        first, masks = outputs[..., :end].reshape(*lead, rows, -1), outputs[..., end:]
        return first, masks.reshape(*lead, self.proposals, self.size, self.size)

    def losses(self, outputs: torch.Tensor, numbers: torch.Tensor, most: int) -> torch.Tensor:
        """Return each picture's loss of both stages and of the masks."""
        rows, masks = self.split(outputs)
        true, there = boxes_of(numbers, most, outputs)
        found = self.boxes.moved(rows)[0].detach()
        overlap, which = (overlaps(found, true) * there[:, None]).max(dim=2)
        right = overlap >= POSITIVE
        wanted = masks_in(numbers, found, which + 1, self.size).to(masks)
        each = F.binary_cross_entropy_with_logits(masks, wanted, reduction="none").flatten(2).mean(dim=2)
        drawn = (each * right).sum(dim=1) / right.sum(dim=1).clamp(min=1)
        return self.boxes.losses(rows, torch.cat([true, torch.zeros_like(true[..., :1])], dim=-1), there) + drawn

    def objects(self, outputs: torch.Tensor, most: int, least_score: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return one picture's objects; a pixel in several masks belongs to that of the largest score times probability."""
        from monai.data.box_utils import non_max_suppression

        rows, masks = self.split(torch.nan_to_num(outputs.detach().float().cpu(), 0.0, 30.0, -30.0))
        boxes, logits = self.boxes.moved(rows)
        scores = logits.softmax(dim=1)[:, 1]
        chosen = torch.as_tensor(
            non_max_suppression(boxes, scores, self.box_overlap, max_proposals=most), dtype=torch.int64
        )
        chosen = chosen[scores[chosen] >= least_score]
        best = torch.zeros(self.shape)
        numbers = torch.zeros(best.shape, dtype=torch.int64)
        least = []
        for number, place in enumerate(chosen.tolist(), start=1):
            drawn = painted(masks[place], boxes[place], best.shape)
            certain = torch.where(drawn > HALF, drawn * scores[place], 0.0)
            numbers = torch.where(certain > best, number, numbers)
            best = torch.maximum(best, certain)
            least.append(max(LEAST_PIXELS, SEEN * int((drawn > HALF).sum())))
        return kept_objects(numbers, scores[chosen], torch.tensor(least))


def boxes_of(numbers: torch.Tensor, most: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the corners of each object ``[pictures, most, 4]`` in pixels, and which numbers are objects ``[pictures, most]``.

    Args:
        numbers: int64 ``[pictures, rows, columns]``, 0 for background, objects from 1 to `most`.
    """
    pictures, rows, columns = numbers.shape
    flat, corners = numbers.flatten(1), []
    for place in pixels(rows, columns, like):
        places = place.expand(pictures, -1)
        none = like.new_zeros(pictures, most + 1)
        low = (none + max(rows, columns)).scatter_reduce(1, flat, places, "amin")
        corners.append((low[:, 1:], none.scatter_reduce(1, flat, places + 1, "amax")[:, 1:]))
    there = (corners[0][1] > 0).to(like)
    boxes = torch.stack([low for low, _ in corners] + [high for _, high in corners], dim=2)
    return boxes * there[..., None], there


def masks_in(numbers: torch.Tensor, boxes: torch.Tensor, which: torch.Tensor, size: int) -> torch.Tensor:
    """Return whether the points of each box are pixels of an object, bool ``[pictures, boxes, size, size]``.

    Args:
        numbers: int64 ``[pictures, rows, columns]``.
        boxes: ``[pictures, boxes, 4]`` in pixels.
        which: the object's number for each box, ``[pictures, boxes]``.
    """
    rows, columns = numbers.shape[1:]
    axis = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size
    low, high = boxes[..., None, :2], boxes[..., None, 2:]
    points = low + axis[:, None] * (high - low)  # [pictures, boxes, size, 2]; pixel 0 covers 0 to 1
    sides = points.new_tensor([rows, columns])
    inside = (points >= 0) & (points < sides)
    pixel = points.nan_to_num().clamp(min=torch.zeros_like(sides), max=sides - 1).long()
    flat = pixel[..., :, None, 0] * columns + pixel[..., None, :, 1]
    found = numbers.flatten(1).gather(1, flat.flatten(1)).reshape(flat.shape)
    return (found == which[..., None, None]) & inside[..., :, None, 0] & inside[..., None, :, 1]


def painted(mask: torch.Tensor, box: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return the probability of each pixel ``[rows, columns]`` that it belongs to an object, 0 outside of its box.

    Args:
        mask: logits ``[size, size]`` of the box's points.
        box: ``[4]`` in pixels.
    """
    low, high = box[:2], box[2:]
    axes = [
        2 * (torch.arange(side) + 0.5 - start) / (end - start).clamp(min=1e-3) - 1
        for side, start, end in zip(shape, low, high, strict=True)
    ]
    y, x = torch.meshgrid(*axes, indexing="ij")
    points = torch.stack([x, y], dim=-1)[None]  # torch wants x first
    drawn = F.grid_sample(mask[None, None], points, padding_mode="border", align_corners=False)[0, 0].sigmoid()
    return drawn * ((points[0].abs() <= 1).all(dim=-1))


class MaskNetwork(TwoStageNetwork):
    """``[pictures, channels, rows, columns]`` to ``[pictures, numbers]``."""

    def __init__(self, task: TaskSettings, own: MaskSettings) -> None:
        super().__init__(of_pictures(task), own)
        width, self.size = own.mask_width, own.mask_size
        self.near, self.far = convolution(2, own.widths[0], width, 1), convolution(2, own.neck_width, width, 1)
        self.mask = nn.Sequential(
            normalised(2, width, width, 3), normalised(2, width, width, 3), convolution(2, width, 1, 1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return what `RegionMasks` understands."""
        stages = self.backbone.stages(image)
        features = self.backbone.joined(stages)
        rows = self.boxes(features)
        boxes = self.meaning.moved(rows)[0].detach()
        near = self.near(stages[0])
        seen = near + F.interpolate(self.far(features[0]), size=near.shape[2:], mode="bilinear", align_corners=False)
        regions = aligned(seen, boxes, self.size, STEP).reshape(-1, near.shape[1], self.size, self.size)
        return torch.cat([rows.flatten(1), self.mask(regions).reshape(len(image), -1)], dim=1)


@with_masks(RegionMasks)
@with_settings(MaskSettings)
def build(task: TaskSettings) -> nn.Module:
    """Return Mask R-CNN for pictures, or for the single pictures of a clip or volume.

    Raises:
        JobError: a task without objects.
    """
    if not hasattr(task, "most_objects"):
        raise JobError(
            f"The model {task.model!r} finds objects, and the task {task.kind!r} has none.",
            remedy='Use it with task.kind = "instances" or "tracking", or choose another model.',
        )
    return MaskNetwork(task, settings_of(task, MaskSettings))
