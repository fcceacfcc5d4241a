"""CenterNet: objects as points, with a heat map for each class and a size at each centre (Zhou et al. 2019, arXiv 1904.07850).

Outputs are, for each place at a quarter of the resolution, a logit for each class, the offset of the centre within the place,
and the logarithm of the size in places. A peak is a place that is larger than its neighbours; overlapping ones of one object
are suppressed, as for other detectors.
"""

import torch
import torch.nn.functional as F

from salus.common.job import TaskSettings
from salus.common.models.detectors.base import Found, best, centres_of, reduced

HALVINGS = 2
SIGMA = 1 / 6  # of an object's size: the heat map's width
ALPHA, BETA = 2.0, 4.0  # Law and Deng 2018, arXiv 1808.01244, eq. 1
SIZE_WEIGHT = 0.5
LARGEST_SIZE = 6.0  # of the logarithm of a size in places


class CentreDetector:
    """The meaning of CenterNet's outputs."""

    def __init__(self, task: TaskSettings) -> None:
        self.dims, self.classes = len(task.shape), len(task.classes)
        self.sides = reduced(task.shape, HALVINGS)
        self.step = 2.0**HALVINGS
        self.places = centres_of(task.shape, HALVINGS) / self.step  # in places; the middle of the first is at 0.5

    @property
    def numbers(self) -> int:
        """Numbers of one place."""
        return self.classes + 2 * self.dims

    def losses(self, outputs: torch.Tensor, boxes: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return each image's loss, see `base.Detector`."""
        low, high = torch.split(boxes[..., :-1] / self.step, self.dims, dim=-1)
        centre, size = (low + high) / 2, (high - low).clamp(min=0.25)
        places = self.places.to(outputs)
        offset = centre[:, None] - places[None, :, None]  # [items, places, most, dims]
        heat = torch.exp(-0.5 * (offset / (SIGMA * size).clamp(min=0.5)[:, None]).square().sum(dim=-1)) * there[:, None]
        at = (offset.abs() <= 0.5).all(dim=-1) & (there[:, None] > 0)
        kinds = F.one_hot(boxes[..., -1].round().long().clamp(0, self.classes - 1), self.classes).to(outputs)
        wanted = (heat[..., None] * kinds[:, None]).amax(dim=2)
        peaks = (at[..., None] * kinds[:, None]).amax(dim=2) > 0
        said, moves = outputs[..., : self.classes], outputs[..., self.classes :]
        logs, none = F.logsigmoid(said), F.logsigmoid(-said)
        p = torch.sigmoid(said)
        each = torch.where(peaks, (1 - p) ** ALPHA * logs, (1 - wanted) ** BETA * p**ALPHA * none)
        count = there.sum(dim=1).clamp(min=1)
        nearest = torch.where(at, torch.ones_like(heat), torch.zeros_like(heat))
        target = torch.cat([offset, size.log()[:, None].expand_as(offset)], dim=-1)
        error = (moves[:, :, None] - target).abs().sum(dim=-1)
        return -each.sum(dim=(1, 2)) / count + SIZE_WEIGHT * (error * nearest).sum(dim=(1, 2)) / count

    def found(self, outputs: torch.Tensor, most: int, nms_overlap: float) -> Found:
        """Return the objects of one image, see `base.Detector`."""
        scores = torch.sigmoid(outputs[:, : self.classes])
        maps = scores.T.reshape(1, self.classes, *self.sides)
        pool = F.max_pool2d if self.dims == 2 else F.max_pool3d
        peaks = (pool(maps, 3, stride=1, padding=1) == maps).reshape(self.classes, -1).T
        shift, size = torch.split(outputs[:, self.classes :], self.dims, dim=1)
        centre = (self.places + shift.clamp(-2, 2)) * self.step
        half = size.clamp(-LARGEST_SIZE, LARGEST_SIZE).exp() * self.step / 2
        boxes = torch.cat([centre - half, centre + half], dim=1)
        return best(boxes, scores * peaks, most, nms_overlap)
