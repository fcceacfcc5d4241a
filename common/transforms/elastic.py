"""Smooth random deformations, as tissue gives way."""

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field as Limits
from pydantic import model_validator

from salus.common.batch import Spec
from salus.common.errors import JobError
from salus.common.examples import BOXES, Example
from salus.common.job import TaskSettings
from salus.common.transforms.augment_grid import ChangeSettings
from salus.common.transforms.base import Draw, Transform, grid_shape
from salus.common.transforms.moves import sampled

FOLDS_ABOVE = 0.4  # of the distance of control points


class Elastic(Transform):
    """Deforms an image by cubic B-splines over random control points (as `Rand2DElastic` and `Rand3DElastic` of MONAI).

    Free-form deformation after Rueckert et al. 1999. No voxel moves further than `magnitude`, and nothing folds while that is
    at most 0.4 of the control points' distance (Choi and Lee 2000). The affine stays: the deformation belongs to the content.
    """

    random: ClassVar[bool] = True
    alike: ClassVar[bool] = True

    class Settings(ChangeSettings):
        """Elastic deformations.

        Args:
            distance: Voxels between the control points; a larger distance gives smoother deformations.
            magnitude: Largest shift along each axis in voxels.
        """

        kind: Literal["elastic"] = "elastic"
        distance: Annotated[float, Limits(ge=2, le=512)] = 16.0  # smooth at the scale of organs
        magnitude: Annotated[float, Limits(gt=0, le=128)] = 3.0  # well below what would fold

        @model_validator(mode="after")
        def _does_not_fold(self) -> Self:
            if self.magnitude > FOLDS_ABOVE * self.distance:
                raise ValueError(f"expected magnitude of at most {FOLDS_ABOVE} times distance: more folds the image")
            return self

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        self.settings = settings

    def spec(self, given: Spec) -> Spec:
        if BOXES in given:
            raise JobError("cannot move boxes.", remedy="Leave the step out, or use rotate, zoom or affine.")
        return super().spec(given)

    def __call__(self, example: Example, draw: Draw | None) -> Example:
        assert draw is not None
        if draw.random() >= self.settings.probability:
            return example
        weights = [_splines(side, self.settings.distance) for side in grid_shape(example)]
        points = (len(weights), *(rows.shape[1] for rows in weights))
        control = draw.uniform(-self.settings.magnitude, self.settings.magnitude, points)
        shifts = control
        for axis, rows in enumerate(weights):
            shifts = np.moveaxis(np.tensordot(rows, shifts, (1, axis + 1)), 0, axis + 1)
        places = np.indices(grid_shape(example)) + shifts
        fields = {name: sampled(example[name], places, self.settings.outside) for name in example.spatial}
        return example.with_fields(**fields)


def _splines(side: int, distance: float) -> npt.NDArray[np.float64]:
    """Return the weights ``[side, points]`` of uniform cubic B-splines; each row sums to 1."""
    at = np.arange(side) / distance
    first = np.floor(at).astype(int)
    part = at - first
    basis = np.stack(
        [(1 - part) ** 3, 3 * part**3 - 6 * part**2 + 4, -3 * part**3 + 3 * part**2 + 3 * part + 1, part**3], axis=1
    )
    weights = np.zeros((side, int(first[-1]) + 4))
    for offset in range(4):
        weights[np.arange(side), first + offset] = basis[:, offset] / 6
    return weights
