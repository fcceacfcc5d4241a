"""A patch from a random place, more often from where the structures are."""

from typing import ClassVar, Literal

import numpy as np

from salus.common.batch import Spec
from salus.common.errors import JobError
from salus.common.examples import Example
from salus.common.job import TaskSettings
from salus.common.strict import Strict
from salus.common.transforms.base import Draw, FieldName, Share, Size, Transform, grid_shape, size_for, with_sides
from salus.common.transforms.cropping import Grey
from salus.common.transforms.moves import Frame, moved


class RandomCrop(Transform):
    """Takes a part of a fixed size from a random place; smaller images are padded.

    As `RandSpatialCrop`, `RandCropByPosNegLabel` and `RandCropByLabelClasses` of MONAI.
    """

    random: ClassVar[bool] = True

    class Settings(Strict):
        """A part of fixed size from a random place.

        Args:
            size: Sides in voxels; empty takes ``task.shape``.
            around: What a chosen part of the crops is centred on: nothing in particular (`anywhere`), a voxel of any
                structure (`foreground`), or a voxel of a structure that is drawn first (`classes`), so that small ones are
                seen as often as large ones.
            share: Share of the crops that are centred so; the others are taken from anywhere.
            field: The mask that tells the structures.
            value: Grey value around images that are smaller; masks get 0 there.
        """

        kind: Literal["random-crop"] = "random-crop"
        size: Size = ()
        around: Literal["anywhere", "foreground", "classes"] = "anywhere"  # needs no mask
        share: Share = 0.5  # as MONAI's default of one positive for one negative
        field: FieldName = "mask"
        value: Grey = 0.0  # black, where 0 is black; -1 after a scaling to -1 .. 1

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings, self._task = settings, task
        self.size = settings.size or task.shape

    def spec(self, given: Spec) -> Spec:
        mask = given.get(self.settings.field)
        if self.settings.around != "anywhere" and (mask is None or mask.dtype != "int64" or not mask.spatial):
            raise JobError(
                f"expected a mask {self.settings.field!r} for around = {self.settings.around!r}.",
                remedy='Set field to the name of a mask, or around = "anywhere".',
            )
        return with_sides(given, size_for(self.settings.size, self._task, given))

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        assert draw is not None
        shape = grid_shape(example)
        chosen, place = draw.random(), draw.random(len(shape))
        centre = None
        if self.settings.around != "anywhere" and chosen < self.settings.share:
            centre = self._voxel(example[self.settings.field], draw)
        start = []
        for axis, (side, size) in enumerate(zip(shape, self.size, strict=True)):
            if side <= size:
                start.append(-((size - side) // 2))
            elif centre is None:
                start.append(int(place[axis] * (side - size + 1)))
            else:
                start.append(min(max(0, int(centre[axis]) - size // 2), side - size))
        return moved(example, Frame(tuple(start), self.size, self.settings.value))

    def _voxel(self, mask: np.ndarray, draw: Draw) -> np.ndarray | None:
        """Return the index of a voxel of a structure, or None without one."""
        if self.settings.around == "classes":
            mask = _one_class(mask, draw)
        places = np.flatnonzero(mask)
        if not len(places):
            return None
        return np.array(np.unravel_index(int(draw.choice(places)), mask.shape)[1:])


def _one_class(mask: np.ndarray, draw: Draw) -> np.ndarray:
    """Return where one of the structures is, drawn among those that are there; they may be numbers or channels."""
    if len(mask) > 1:
        there = np.flatnonzero(mask.reshape(len(mask), -1).any(axis=1))
        return mask[[draw.choice(there)]] if len(there) else mask
    classes = np.unique(mask[mask != 0])
    return mask == draw.choice(classes) if len(classes) else mask
