"""What every network for detection shares: its backbone, and the interface of what its outputs mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field

from salus.common.job import TaskSettings
from salus.common.models.blocks import normalised
from salus.common.models.outputs import cropped
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import nn, torch
from salus.common.strict import Strict

RANKED = 1000  # places of a class with the highest scores that are decoded; each object has tens of them, so 300 missed cells


@dataclass(frozen=True)
class Found:
    """Objects of one image.

    Args:
        boxes: ``[objects, 2 dims]``, low and high corner in pixels.
        scores: ``[objects]`` from 0 to 1, descending.
        classes: ``[objects]``, class numbers from 0.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    classes: torch.Tensor

    def of_class(self, number: int) -> "Found":
        """Return the objects of one class."""
        mine = self.classes == number
        return Found(self.boxes[mine], self.scores[mine], self.classes[mine])


class Detector(Protocol):
    """What the outputs ``[items, places, numbers]`` of a network mean."""

    def losses(self, outputs: torch.Tensor, boxes: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return each image's loss, ``[items]``; item i depends on item i only.

        Args:
            boxes: ``[items, most, 2 dims + 1]``, with class numbers from 0.
            there: ``[items, most]``, which of them are objects.
        """

    def found(self, outputs: torch.Tensor, most: int, nms_overlap: float) -> Found:
        """Return at most so many objects of one image.

        Args:
            outputs: ``[places, numbers]``, finite.
        """


class DetectorSettings(Strict):
    """Settings of the backbone.

    Args:
        widths: Channels at a half, a quarter, an eighth and a sixteenth of the resolution.
        neck_width: Channels of the features that the head sees.
    """

    widths: Annotated[tuple[Annotated[int, Field(ge=4, le=512)], ...], Field(min_length=4, max_length=4)] = (
        16,
        32,
        64,
        128,
    )  # 0.4 million parameters in 2-D: a few hospitals' images
    neck_width: Annotated[int, Field(ge=8, le=512)] = 64


class Backbone(nn.Module):
    """Features of some levels of the resolution, each with what the coarser ones saw (Lin et al. 2017, arXiv 1612.03144).

    Args:
        halvings: of the resolution at the levels that are returned, rising, each between 1 and 4.
    """

    def __init__(self, task: TaskSettings, own: DetectorSettings, halvings: Sequence[int]) -> None:
        super().__init__()
        spatial, before = len(task.shape), task.channels
        self.levels = nn.ModuleList()
        for width in own.widths:
            self.levels.append(
                nn.Sequential(normalised(spatial, before, width, 3, stride=2), normalised(spatial, width, width, 3))
            )
            before = width
        kind = nn.Conv2d if spatial == 2 else nn.Conv3d
        self.used = halvings[0] - 1  # the first level that the neck sees; it sees all coarser ones
        self.sides = nn.ModuleList(kind(width, own.neck_width, 1) for width in own.widths[self.used :])
        self.smooth = nn.ModuleList(normalised(spatial, own.neck_width, own.neck_width, 3) for _ in halvings)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the features, the finest first."""
        return self.joined(self.stages(image))

    def stages(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return what each level sees of an image, at a half, a quarter, ... of the resolution."""
        features = []
        for level in self.levels:
            image = level(image)
            features.append(image)
        return features

    def joined(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the features, the finest first, of what the levels see."""
        used = features[self.used :]
        top = self.sides[-1](used[-1])
        found = [top]
        for side, feature in zip(reversed(self.sides[:-1]), reversed(used[:-1]), strict=True):
            top = side(feature) + cropped(F.interpolate(top, scale_factor=2, mode="nearest"), feature.shape[2:])
            found.insert(0, top)
        return [smooth(feature) for smooth, feature in zip(self.smooth, found[: len(self.smooth)], strict=True)]


def reduced(shape: Sequence[int], halvings: int) -> tuple[int, ...]:
    """Return the sides of the features after so many convolutions of stride 2."""
    sides = tuple(shape)
    for _ in range(halvings):
        sides = tuple(-(-side // 2) for side in sides)
    return sides


def centres_of(shape: Sequence[int], halvings: int) -> torch.Tensor:
    """Return the centre of each place of the features in pixels, ``[places, dims]``, slowest axis first."""
    step = 2.0**halvings
    axes = [(torch.arange(side) + 0.5) * step for side in reduced(shape, halvings)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(axes))


def best(boxes: torch.Tensor, scores: torch.Tensor, most: int, nms_overlap: float) -> Found:
    """Return the objects after non-maximum suppression within each class.

    Args:
        boxes: ``[places, 2 dims]``.
        scores: ``[places, classes]``.
    """
    from monai.data.box_utils import non_max_suppression

    kept: list[Found] = []
    for number in range(scores.shape[1]):
        mine, places = scores[:, number].topk(min(RANKED, len(scores)))
        chosen = non_max_suppression(boxes[places].detach(), mine.detach(), nms_overlap, max_proposals=most)
        chosen = torch.as_tensor(chosen, dtype=torch.int64)
        kept.append(Found(boxes[places][chosen], mine[chosen], torch.full((len(chosen),), number)))
    every = [torch.cat([getattr(one, name) for one in kept]) for name in ("boxes", "scores", "classes")]
    order = every[1].argsort(descending=True, stable=True)[:most]
    return Found(every[0][order], every[1][order], every[2][order])
