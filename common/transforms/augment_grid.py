"""Random changes of the grid: flips, rotations, zooms and general affine changes."""

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field as Limits
from pydantic import model_validator

from salus.common.batch import Spec
from salus.common.errors import JobError
from salus.common.examples import Example
from salus.common.job import TaskSettings
from salus.common.strict import Strict
from salus.common.transforms.base import Draw, Share, Transform, check_rising, grid_shape, sides_of
from salus.common.transforms.moves import Outside, Resampled, Turn, about_centre, moved

Axis = Annotated[int, Limits(ge=0, le=2)]
Degrees = Annotated[float, Limits(ge=0, le=180)]
Factor = Annotated[float, Limits(ge=0.25, le=4)]


class Flip(Transform):
    """Mirrors an image (`RandAxisFlip` of MONAI, each axis by itself)."""

    random: ClassVar[bool] = True
    alike: ClassVar[bool] = True

    class Settings(Strict):
        """Mirror images.

        Args:
            probability: Chance for each axis.
            axes: Axes that may be flipped, counted from 0; empty flips the last one, which runs from right to left in most
                images. Where the side matters, name other axes.
        """

        kind: Literal["flip"] = "flip"
        probability: Share = 0.5  # half of the images as they are
        axes: tuple[Axis, ...] = ()

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings = settings

    def spec(self, given: Spec) -> Spec:
        _check_axes(self.settings.axes, given)
        return given

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        assert draw is not None
        shape = grid_shape(example)
        axes = self.settings.axes or (len(shape) - 1,)
        drawn = dict(zip(axes, draw.random(len(axes)), strict=True))
        flipped = tuple(drawn.get(axis, 1.0) < self.settings.probability for axis in range(len(shape)))
        return moved(example, Turn(tuple(range(len(shape))), flipped, shape)) if any(flipped) else example


class ChangeSettings(Strict):
    """How often a random change of the grid happens, and what lies outside of it.

    Args:
        probability: Chance that an image is changed.
        outside: How the image and its mask are continued where the new grid reaches beyond them.
    """

    probability: Share = 0.5  # half of the images as they are
    outside: Outside = "border"  # a constant would be an edge that no patient has


class _Changing(Transform):
    random: ClassVar[bool] = True
    alike: ClassVar[bool] = True
    settings: ChangeSettings

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        assert draw is not None
        if draw.random() >= self.settings.probability:
            return example
        shape = grid_shape(example)
        linear, shift = self._change(len(shape), draw)
        scale = np.diag(example.spacing_mm[-len(shape) :] or (1.0,) * len(shape))
        # In millimetres, so that a rotation keeps distances in the patient.
        inner = np.linalg.inv(scale) @ linear @ scale
        return moved(
            example, Resampled(about_centre(inner, shape, shift * np.array(shape)), shape, self.settings.outside)
        )

    def _change(self, dims: int, draw: Draw) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the linear part, in millimetres, and the shift as shares of the sides."""
        raise NotImplementedError


class Rotate(_Changing):
    """Rotates an image about its centre (`RandRotate` of MONAI)."""

    class Settings(ChangeSettings):
        """Rotations.

        Args:
            degrees: Largest angle, in either direction.
            axes: For volumes, the axes around which they are rotated; empty means all three.
        """

        kind: Literal["rotate"] = "rotate"
        degrees: Degrees = 15.0  # patients lie about as differently on the table
        axes: tuple[Axis, ...] = ()

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings: Rotate.Settings = settings

    def spec(self, given: Spec) -> Spec:
        if self.settings.axes and len(sides_of(given)) == 2:
            raise JobError("expected no axes for planes.", remedy="Remove axes: a plane has one rotation.")
        return super().spec(given)

    def _change(self, dims: int, draw: Draw) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        return rotation(dims, self.settings.degrees, self.settings.axes, draw), np.zeros(dims)


class RandomZoom(_Changing):
    """Enlarges or shrinks what an image shows, the same along all axes (`RandZoom` of MONAI)."""

    class Settings(ChangeSettings):
        """Zooms.

        Args:
            low, high: Range of the factor; above 1 enlarges.
        """

        kind: Literal["zoom"] = "zoom"
        low: Factor = 0.9  # bodies differ about as much
        high: Factor = 1.1

        @model_validator(mode="after")
        def _some_range(self) -> Self:
            check_rising(self.low, self.high)
            return self

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings: RandomZoom.Settings = settings

    def _change(self, dims: int, draw: Draw) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        return np.eye(dims) / draw.uniform(self.settings.low, self.settings.high), np.zeros(dims)


class RandomAffine(_Changing):
    """Rotates, zooms along each axis, shears and shifts in one interpolation (`RandAffine` of MONAI)."""

    class Settings(ChangeSettings):
        """Affine changes.

        Args:
            degrees: Largest rotation around every axis, in either direction.
            low, high: Range of the zoom along each axis.
            shear: Largest shear, as a tangent.
            shift: Largest shift along each axis, as a share of the side.
        """

        kind: Literal["affine"] = "affine"
        degrees: Degrees = 10.0  # as most published chains
        low: Factor = 0.9
        high: Factor = 1.1
        shear: Annotated[float, Limits(ge=0, le=1)] = 0.0  # needs no more than zoom and rotation
        shift: Annotated[float, Limits(ge=0, le=1)] = 0.05  # patients lie a little off the centre

        @model_validator(mode="after")
        def _some_range(self) -> Self:
            check_rising(self.low, self.high)
            return self

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings: RandomAffine.Settings = settings

    def _change(self, dims: int, draw: Draw) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        turned = rotation(dims, self.settings.degrees, (), draw)
        zoomed = np.diag(1 / draw.uniform(self.settings.low, self.settings.high, dims))
        sheared = np.eye(dims) + np.triu(draw.uniform(-self.settings.shear, self.settings.shear, (dims, dims)), 1)
        return turned @ sheared @ zoomed, draw.uniform(-self.settings.shift, self.settings.shift, dims)


def rotation(dims: int, degrees: float, axes: tuple[int, ...], draw: Draw) -> npt.NDArray[np.float64]:
    """Return a rotation matrix ``[dims, dims]`` with angles uniform within the limit, around each of the axes in turn."""
    planes = [(0, 1)] if dims == 2 else [(1, 2), (0, 2), (0, 1)]  # the plane that each axis is normal to
    matrix = np.eye(dims)
    for axis, (first, second) in enumerate(planes):
        angle = np.deg2rad(draw.uniform(-degrees, degrees))
        if dims == 3 and axes and axis not in axes:
            continue
        turn = np.eye(dims)
        turn[[first, second], [first, second]] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _check_axes(axes: tuple[int, ...], given: Spec) -> None:
    dims = len(sides_of(given))
    if len(set(axes)) != len(axes) or any(axis >= dims for axis in axes):
        raise JobError(f"expected different axes from 0 to {dims - 1}, got {list(axes)}.", remedy="Correct axes.")
