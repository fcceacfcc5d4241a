"""Parts of an image: around its foreground, of a fixed size, or with a margin added. Nothing is interpolated."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field as Limits

from salus.common.batch import Spec
from salus.common.errors import JobError
from salus.common.examples import Array, Example
from salus.common.job import TaskSettings
from salus.common.strict import Strict
from salus.common.transforms.base import (
    UNKNOWN,
    Draw,
    FieldName,
    Size,
    Transform,
    check_fields,
    grid_shape,
    sides_of,
    size_for,
    with_sides,
)
from salus.common.transforms.moves import Frame, moved, moved_back

Grey = Annotated[float, Limits(ge=-1e9, le=1e9)]


class _Framing(Transform):
    """What a crop and a pad share: a frame that follows from the example alone."""

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        return moved(example, self._frame(example))

    def inverse(self, example: Example, original: Example) -> Example:
        return moved_back(example, self._frame(original), original)

    def _frame(self, example: Example) -> Frame:
        raise NotImplementedError


class CropForeground(_Framing):
    """Crops to the box around all voxels above a threshold (`CropForeground` of MONAI)."""

    class Settings(Strict):
        """The box around the foreground.

        Args:
            above: Voxels above this value are foreground; an image without any is left as it is.
            margin: Voxels that are kept around the box, as far as the image reaches.
            field: The image that decides; a mask would not be there when the model is used.
        """

        kind: Literal["crop-foreground"] = "crop-foreground"
        above: Grey = 0.0  # the background of most images
        margin: Annotated[int, Limits(ge=0, le=1024)] = 0
        field: FieldName = "image"

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings = settings

    def spec(self, given: Spec) -> Spec:
        check_fields((self.settings.field,), given)
        return with_sides(given, (UNKNOWN,) * len(sides_of(given)))

    def _frame(self, example: Example) -> Frame:
        shape = grid_shape(example)
        bright, padding = example[self.settings.field] > self.settings.above, example.padding_of(self.settings.field)
        inside: Array = np.any(bright if padding is None else bright & ~padding, axis=0, keepdims=False)
        if not inside.any():
            return Frame((0,) * len(shape), shape)
        start, size = [], []
        for axis, side in enumerate(shape):
            places = np.flatnonzero(np.moveaxis(inside, axis, 0).reshape(side, -1).any(axis=1))
            low = max(0, int(places[0]) - self.settings.margin)
            start.append(low)
            size.append(min(side, int(places[-1]) + 1 + self.settings.margin) - low)
        return Frame(tuple(start), tuple(size))


class CenterCrop(_Framing):
    """Takes a part of a fixed size from the middle; smaller images are padded (`ResizeWithPadOrCrop` of MONAI)."""

    class Settings(Strict):
        """A part of fixed size.

        Args:
            size: Sides in voxels; empty takes ``task.shape``.
            value: Grey value around images that are smaller; masks get 0 there.
        """

        kind: Literal["center-crop"] = "center-crop"
        size: Size = ()
        value: Grey = 0.0  # black, where 0 is black; -1 after a scaling to -1 .. 1

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings, self._task = settings, task
        self.size = settings.size or task.shape

    def spec(self, given: Spec) -> Spec:
        return with_sides(given, size_for(self.settings.size, self._task, given))

    def _frame(self, example: Example) -> Frame:
        return Frame(centred(grid_shape(example), self.size), self.size, self.settings.value)


class Pad(_Framing):
    """Adds voxels on both sides until an image has at least a given size (`SpatialPad` and `DivisiblePad` of MONAI)."""

    class Settings(Strict):
        """The least size of an image.

        Args:
            size: Least sides in voxels; empty with ``multiple_of`` above 1 asks for no least size, otherwise for
                ``task.shape``.
            multiple_of: Every side becomes a multiple of this, as networks with several levels need.
            mode: How images are continued: with ``value``, with the voxel at the edge, or mirrored; masks get 0.
            value: Grey value of the added voxels with ``mode = "constant"``.
        """

        kind: Literal["pad"] = "pad"
        size: Size = ()
        multiple_of: Annotated[int, Limits(ge=1, le=256)] = 1
        mode: Literal["constant", "edge", "reflect"] = "constant"  # adds nothing that was not measured
        value: Grey = 0.0  # black, where 0 is black; -1 after a scaling to -1 .. 1

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings, self._task = settings, task
        self.size = settings.size or (() if settings.multiple_of > 1 else task.shape)

    def spec(self, given: Spec) -> Spec:
        sides = sides_of(given)
        if self.size:
            size_for(self.size, self._task, given)
        known = [UNKNOWN if side == UNKNOWN else self._padded(side, axis) for axis, side in enumerate(sides)]
        if any(side > 4 * 4096 for side in known):
            raise JobError("expected smaller sides.", remedy="Lower size or multiple_of.")
        return with_sides(given, tuple(known))

    def _frame(self, example: Example) -> Frame:
        shape = grid_shape(example)
        size = tuple(self._padded(side, axis) for axis, side in enumerate(shape))
        return Frame(centred(shape, size), size, self.settings.value, self.settings.mode)

    def _padded(self, side: int, axis: int) -> int:
        least = max(side, self.size[axis] if self.size else 0)
        return -(-least // self.settings.multiple_of) * self.settings.multiple_of


def centred(shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
    """Return the start of a frame in the middle of a grid, negative where the frame is larger."""
    both = zip(shape, size, strict=True)
    return tuple((side - wanted) // 2 if side >= wanted else -((wanted - side) // 2) for side, wanted in both)
