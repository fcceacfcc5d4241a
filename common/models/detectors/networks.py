"""The networks for detection: the backbone, and a head of convolutions whose outputs a `Detector` understands."""

import math
from collections.abc import Callable

from salus.common.job import TaskSettings
from salus.common.models.blocks import normalised
from salus.common.models.detectors.anchors import (
    AnchorDetector,
    AnchorSettings,
    Focal,
    Objectness,
    Softmax,
    anchors_at,
    levels_of,
)
from salus.common.models.detectors.base import Backbone, DetectorSettings
from salus.common.models.detectors.centres import HALVINGS, CentreDetector
from salus.common.models.outputs import dimensions
from salus.common.optional_torch import nn, torch
from salus.common.registry import settings_of, with_settings

RARE = (
    0.02  # chance of an object at a place before training, without which the first steps only learn that there is none
)


class Head(nn.Module):
    """Two convolutions that all levels share, and one for each level's anchors."""

    def __init__(self, spatial: int, width: int, each: tuple[int, ...], numbers: int, rare: tuple[int, int]) -> None:
        super().__init__()
        self.numbers = numbers
        self.tower = nn.Sequential(normalised(spatial, width, width, 3), normalised(spatial, width, width, 3))
        kind = nn.Conv2d if spatial == 2 else nn.Conv3d
        self.last = nn.ModuleList(kind(width, count * numbers, 1) for count in each)
        for layer in self.last:
            assert isinstance(layer, nn.Conv2d | nn.Conv3d)  # Safe because they were just made.
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None  # likewise
            nn.init.zeros_(layer.bias)
            with torch.no_grad():
                layer.bias.view(-1, numbers)[:, slice(*rare)] = -math.log((1 - RARE) / RARE)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Return ``[items, places, numbers]``, all levels behind each other."""
        found = []
        for layer, feature in zip(self.last, features, strict=True):
            values = layer(self.tower(feature)).flatten(2).transpose(1, 2)
            found.append(values.reshape(len(values), -1, self.numbers))
        return torch.cat(found, dim=1)


class DetectorNetwork(nn.Module):
    """``[items, channels, *shape]`` to ``[items, places, numbers]``."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return what the network's `Detector` understands."""
        found: torch.Tensor = self.head(self.backbone(image))
        return found


def _anchored(task: TaskSettings, kind: type[AnchorDetector]) -> nn.Module:
    own, spatial = settings_of(task, AnchorSettings), dimensions(task)
    detector = kind(task)
    # The numbers that begin as rare: the classes of independent yes or no, or the objectness alone.
    rare = (0, detector.classes) if kind is Focal else (0, 1) if kind is Objectness else (0, 0)
    head = Head(spatial, own.neck_width, anchors_at(task), detector.numbers, rare)
    return DetectorNetwork(Backbone(task, own, tuple(levels_of(task))), head)


def with_detector(make: Callable[[TaskSettings], object]) -> Callable[..., Callable[[TaskSettings], nn.Module]]:
    """Declare what the outputs of the network that a function builds mean."""

    def declare(build: Callable[[TaskSettings], nn.Module]) -> Callable[[TaskSettings], nn.Module]:
        build.detector = make  # type: ignore[attr-defined]  # the task `detection` looks for it
        return build

    return declare


@with_detector(Focal)
@with_settings(AnchorSettings)
def retinanet(task: TaskSettings) -> nn.Module:
    """Return RetinaNet, 2-D or 3-D."""
    return _anchored(task, Focal)


@with_detector(Softmax)
@with_settings(AnchorSettings)
def ssd(task: TaskSettings) -> nn.Module:
    """Return a single-shot detector, 2-D or 3-D."""
    return _anchored(task, Softmax)


@with_detector(Objectness)
@with_settings(AnchorSettings)
def yolo(task: TaskSettings) -> nn.Module:
    """Return a YOLO-style detector, 2-D or 3-D."""
    return _anchored(task, Objectness)


@with_detector(CentreDetector)
@with_settings(DetectorSettings)
def centernet(task: TaskSettings) -> nn.Module:
    """Return CenterNet, 2-D or 3-D."""
    own = settings_of(task, DetectorSettings)
    detector = CentreDetector(task)
    head = Head(dimensions(task), own.neck_width, (1,), detector.numbers, (0, detector.classes))
    return DetectorNetwork(Backbone(task, own, (HALVINGS,)), head)
