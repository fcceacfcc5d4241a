"""Tracking: objects of one kind are found in every frame of a clip, and linked to tracks over time.

The target is a mask whose numbers are tracks, on the clip's grid ``[frames, rows, columns]``: the same object has the same
number in every frame. The network sees single frames, as in `instances`; a tracker of `trackers` links what it finds.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field as Limits

from salus.common.batch import Batch
from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.metrics.tracking import Tracking as Ruler
from salus.common.optional_torch import torch
from salus.common.registry import Registry, settings_of
from salus.common.strict import Strict
from salus.common.tasks.base import Totals
from salus.common.tasks.instances import Instances, InstancesSettings
from salus.common.trackers import TRACKERS
from salus.common.trackers.base import FloatArray, Tracker

Boxes = list[tuple[int, FloatArray]]


class TrackingSettings(InstancesSettings):
    """Settings of tracking; the tracker adds keys of its own.

    Args:
        tracker: What links the objects of single frames.
    """

    plugins: ClassVar[Mapping[str, str | Registry]] = {"tracker": "salus.common.trackers:TRACKERS"}

    tracker: Annotated[str, Limits(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = "deepsort"  # survives occlusions


class Tracking(Instances):
    """Tracks of the objects of one kind, `settings.classes`."""

    Settings: ClassVar[type[Strict]] = TrackingSettings
    sides = (3,)
    headline = ("mota", "idf1")

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self._kind = TRACKERS.get(settings_of(settings, TrackingSettings).tracker, error=JobError)
        self._tracker_settings = settings_of(settings, self._kind.Settings)
        self._ruler = Ruler(self.most * self.pictures)

    def numbered(self, outputs: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return the number of its track for each pixel of an object, int64 ``[frames, rows, columns]``."""
        return torch.stack([numbers for numbers, _ in self._followed(outputs, image)])

    def _followed(self, outputs: torch.Tensor, image: torch.Tensor) -> list[tuple[torch.Tensor, Boxes]]:
        """Return each frame's numbers of tracks, by pixel and with boxes."""
        tracker: Tracker = self._kind(self._tracker_settings)
        found = []
        for said, picture in zip(outputs, _between(image[0].detach().cpu().double()), strict=True):
            numbers, _ = self.masks.objects(said, self.most, self._least_score)
            boxes = boxes_of(numbers)
            seen = tracker.update(picture.numpy(), np.array([box for _, box in boxes]).reshape(-1, 4))
            table = torch.zeros(int(numbers.max()) + 1, dtype=torch.int64)
            for (number, _), (track, _) in zip(boxes, seen, strict=True):
                table[number] = track
            found.append((table[numbers], seen))
        return found

    @property
    def statistics_size(self) -> int:
        """Length of a row of `rows`."""
        return 1 + self._ruler.size

    def rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return [1, counts of `metrics.tracking`] of each clip, float64."""
        one = torch.ones(1, dtype=torch.float64)
        rows = []
        for maps, image, true in zip(outputs, batch["image"], batch["instances"].cpu(), strict=True):
            found = [seen for _, seen in self._followed(maps, image)]
            rows.append(torch.cat([one, self._ruler.row([boxes_of(frame) for frame in true[0]], found)]))
        return torch.stack(rows)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return what `metrics.tracking` gives; empty without clips."""
        return {} if totals[0] < 0.5 else self._ruler.metrics(totals[1:])

    def quality(self, rows: torch.Tensor) -> torch.Tensor:
        """Return IDF1 of each clip; 1 where nothing is annotated and nothing found."""
        both = rows[:, 1] + rows[:, 2]
        return torch.where(both > 0, 2 * rows[:, 6] / both.clamp(min=1e-12), 1.0)


def boxes_of(numbers: torch.Tensor) -> Boxes:
    """Return the number and the box of every object of a frame ``[rows, columns]``, numbers ascending."""
    found: Boxes = []
    for number in torch.unique(numbers).tolist():
        if number > 0:
            places = (numbers == number).nonzero()
            low, high = places.min(dim=0).values, places.max(dim=0).values + 1
            found.append((number, torch.cat([low, high]).double().numpy()))
    return found


def _between(clip: torch.Tensor) -> torch.Tensor:
    """Return a clip's grey values from 0 to 1."""
    low, high = clip.min(), clip.max()
    return (clip - low) / (high - low).clamp(min=1e-12)
