"""Transforms that need to know where the voxels lie in the patient."""

from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field as Limits
from pydantic import model_validator

from salus.common.batch import Spec
from salus.common.errors import JobError, UnreadableImage
from salus.common.examples import Affine, Example
from salus.common.job import TaskSettings
from salus.common.strict import Strict
from salus.common.transforms.base import MAX_SIDE, UNKNOWN, Draw, Transform, grid_shape, sides_of, with_sides
from salus.common.transforms.moves import Resampled, Turn, moved, moved_back

LPS_LABELS = (("R", "L"), ("A", "P"), ("I", "S"))  # the two ends of LPS's axes
Millimetres = Annotated[float, Limits(ge=0.01, le=100)]
MAX_VOXELS = 2**28


class Orientation(Transform):
    """Turns a volume so that its axes run in the given directions, by right angles only (`Orientation` of MONAI)."""

    selective: ClassVar[bool] = True

    class Settings(Strict):
        """The directions in which the axes of a volume run.

        Args:
            axes: For each of the three axes, the side of the patient to which it runs: L or R, P or A, S or I.
        """

        kind: Literal["orientation"] = "orientation"
        axes: Annotated[str, Limits(pattern=r"^[LRPASI]{3}$")] = "SPL"  # the order of DICOM volumes as Salus reads them

        @model_validator(mode="after")
        def _each_direction_once(self) -> Self:
            if len({letter.translate(str.maketrans("RAI", "LPS")) for letter in self.axes}) != 3:
                raise ValueError("expected one of L and R, one of P and A, and one of S and I")
            return self

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings = settings

    def spec(self, given: Spec) -> Spec:
        sides = sides_of(given)
        if len(sides) != 3:
            raise JobError(f"expected volumes, got images of {len(sides)} dimensions.", remedy="Remove the step.")
        return with_sides(given, sides if len(set(sides)) == 1 else (UNKNOWN,) * 3)

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        return moved(example, self._turn(example))

    def inverse(self, example: Example, original: Example) -> Example:
        return moved_back(example, self._turn(original), original)

    def _turn(self, example: Example) -> Turn:
        from nibabel import orientations

        known: Any = orientations  # it has no types
        wanted = known.axcodes2ornt(self.settings.axes, LPS_LABELS)
        have = known.io_orientation(_affine(example))
        change = known.ornt_transform(have, wanted)  # for each old axis: the new axis and the direction
        order = np.argsort(change[:, 0])
        flipped = tuple(bool(change[old, 1] < 0) for old in order)
        return Turn(tuple(int(old) for old in order), flipped, grid_shape(example))


class Spacing(Transform):
    """Resamples to a common distance between voxels (`Spacing` of MONAI).

    The first voxel keeps its place. An oblique or sheared grid stays so. Images that become coarser are not smoothed first.
    """

    selective: ClassVar[bool] = True

    class Settings(Strict):
        """The distance between neighbouring voxels.

        Args:
            mm: Distance along each axis in millimetres, in the order of the axes (z, y, x; for a plane y, x).
        """

        kind: Literal["spacing"] = "spacing"
        mm: Annotated[tuple[Millimetres, ...], Limits(min_length=2, max_length=3)]

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings = settings

    def spec(self, given: Spec) -> Spec:
        dims = len(sides_of(given))
        if dims != len(self.settings.mm):
            raise JobError(f"expected mm with {dims} distances.", remedy="Write one distance for each axis.")
        return with_sides(given, (UNKNOWN,) * dims)

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        return moved(example, self._resampled(example))

    def inverse(self, example: Example, original: Example) -> Example:
        return moved_back(example, self._resampled(original), original)

    def _resampled(self, example: Example) -> Resampled:
        shape = grid_shape(example)
        _affine(example)
        have = np.array(example.spacing_mm[-len(shape) :])
        ratio = np.array(self.settings.mm) / have
        # As in MONAI: the centres of the first voxels coincide, and the last centre lies within half a voxel of the old one.
        size = tuple(round((side - 1) / step) + 1 for side, step in zip(shape, ratio, strict=True))
        if max(size) > MAX_SIDE or np.prod(size, dtype=np.float64) > MAX_VOXELS:
            raise UnreadableImage("too-large", "at the job's spacing it has too many voxels")
        return Resampled(np.diag([*ratio, 1.0]), size)


def _affine(example: Example) -> Affine:
    affine = example.affine
    if affine is None or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise UnreadableImage("no-geometry", "its position and spacing in the patient are not known")
    return affine
