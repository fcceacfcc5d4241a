"""CenterNet: objects as points, with a heat map for each class and a size at each centre (Zhou et al. 2019, arXiv 1904.07850).

Outputs are, for each place at a quarter of the resolution, a logit for each class, the offset of the centre within the place,
and the logarithm of the size in places. A peak is a place that is larger than its neighbours; overlapping ones of one object
are suppressed, as for other detectors.
"""

from salus.common.job import TaskSettings
from salus.common.models.detectors.base import Found, best, centres_of, reduced
from salus.common.models.detectors.losses import BOX_WEIGHT, box_errors
from salus.common.optional_torch import constant, torch
from salus.common.optional_torch import functional as F

HALVINGS = 2
SIGMA = 1 / 6  # of an object's size: the heat map's width
ALPHA, BETA = 2.0, 4.0  # Law and Deng 2018, arXiv 1808.01244, eq. 1
NEAR = (
    0.5  # places where the heat map is above this learn the box too, as in TTFNet (Liu et al. 2019, arXiv 1909.00700)
)
LARGEST_SIZE = 6.0  # of the logarithm of a size in places


class CentreDetector:
    """The meaning of CenterNet's outputs."""

    def __init__(self, task: TaskSettings) -> None:
        self.dims, self.classes = len(task.shape), len(task.classes)
        self.sides = reduced(task.shape, HALVINGS)
        self.step = 2.0**HALVINGS
        self.shape = task.shape

    @constant
    def places(self) -> torch.Tensor:
        """The centre of each place of the features, in places, ``[places, dims]``; the middle of the first is at 0.5."""
        return centres_of(self.shape, HALVINGS) / self.step

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
        kinds_there = (kinds * there[..., None]).sum(dim=1).clamp(min=1)  # objects of each class
        share = there / (kinds * kinds_there[:, None]).sum(
            dim=2
        )  # every class counts once, however many objects it has
        found = self._boxes(moves)[:, :, None]
        error = box_errors(found, (boxes[..., :-1] / self.step)[:, None])
        near = heat * (heat > NEAR)
        placed = (error * near).sum(dim=1) / near.sum(dim=1).clamp(min=1e-6)
        return -(each.sum(dim=1) / kinds_there).sum(dim=1) + BOX_WEIGHT * (placed * share).sum(dim=1)

    def _boxes(self, moves: torch.Tensor) -> torch.Tensor:
        """Return the boxes in places that offsets and sizes are, ``[items, places, 2 dims]``."""
        shift, size = torch.split(moves, self.dims, dim=-1)
        centre, half = self.places.to(moves) + shift, size.clamp(-LARGEST_SIZE, LARGEST_SIZE).exp() / 2
        return torch.cat([centre - half, centre + half], dim=-1)

    def found(self, outputs: torch.Tensor, most: int, nms_overlap: float) -> Found:
        """Return the objects of one image, see `base.Detector`."""
        scores = torch.sigmoid(outputs[:, : self.classes])
        maps = scores.T.reshape(1, self.classes, *self.sides)
        pool = F.max_pool2d if self.dims == 2 else F.max_pool3d
        peaks = (pool(maps, 3, stride=1, padding=1) == maps).reshape(self.classes, -1).T
        boxes = self._boxes(outputs[:, self.classes :]) * self.step
        return best(boxes, scores * peaks, most, nms_overlap)
