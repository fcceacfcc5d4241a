"""Every image with the same number of voxels."""

from typing import Literal

from salus.common.batch import Spec
from salus.common.examples import Example
from salus.common.job import TaskSettings
from salus.common.strict import Strict
from salus.common.transforms.base import Draw, Size, Transform, grid_shape, size_for, with_sides
from salus.common.transforms.moves import Zoom, moved, moved_back


class Resize(Transform):
    """Resamples to a fixed number of voxels, whatever the extent in the patient (`Resize` of MONAI)."""

    class Settings(Strict):
        """The size to which every image is resampled.

        Args:
            size: Sides in voxels; empty takes ``task.shape``.
            mode: How images are resampled: `linear` interpolates (and averages where a plane shrinks), `area` averages.
                Masks always take the nearest voxel.
        """

        kind: Literal["resize"] = "resize"
        size: Size = ()
        mode: Literal["linear", "area"] = "linear"  # keeps edges sharp

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings, self._task = settings, task
        self.size = settings.size or task.shape

    def spec(self, given: Spec) -> Spec:
        return with_sides(given, size_for(self.settings.size, self._task, given))

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        return moved(example, self._zoom(example))

    def inverse(self, example: Example, original: Example) -> Example:
        return moved_back(example, self._zoom(original), original)

    def _zoom(self, example: Example) -> Zoom:
        return Zoom(grid_shape(example), self.size, area=self.settings.mode == "area")
