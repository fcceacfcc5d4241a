"""One item before it becomes tensors: named arrays, and where the grid of the spatial ones lies in the patient."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

PLANES = ("sagittal", "coronal", "axial")  # by the axis of LPS along which slices follow each other
Array = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
ROW = "features"  # the field of a table's row
BOXES = "boxes"  # the field of objects that move with the image, ``[boxes, 2 dims + 1]``
PADDING = "_padding"  # no field of a task has this name


@dataclass(frozen=True)
class Example:
    """One image, volume or row with its annotations.

    Args:
        fields: arrays by name. Spatial ones are ``[channels, *spatial]`` with the axes of DICOM volumes (z up, y back, x left;
            a plane is y, x) and share one grid; a mask holds class numbers, 0 for background. The mask `PADDING`, if there is
            one, is 1 where the image is padding of its file and no measurement.
        spatial: names of the spatial fields.
        affine: ``[4, 4]`` from a voxel's index, in the order of the spatial axes of a volume (z, y, x), to millimetres in the
            patient, LPS; None for tables and for pictures without a known position.
        facts: public facts about the item that a transform may need, such as ``vendor``; never an identifier.
    """

    fields: Mapping[str, Array]
    spatial: frozenset[str] = frozenset()
    affine: Affine | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        return self.fields[name]

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def with_fields(self, **changed: Array) -> "Example":
        """Return the example with these fields set."""
        return replace(self, fields={**self.fields, **changed})

    def padding_of(self, name: str) -> Bools | None:
        """Return which values of an image are padding, shaped like it; None if none is.

        They are shown, but do not count in anything that is computed from intensities.
        """
        if PADDING not in self.fields or name not in self.spatial:
            return None
        padded, image = self.fields[PADDING] > 0, self.fields[name]
        if padded.shape != image.shape:  # an image with channels of its own
            padded = np.broadcast_to(padded.all(axis=0), image.shape)
        return padded if padded.any() else None

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance between neighbouring voxels along each axis, in the order of the affine; empty where unknown."""
        if self.affine is None:
            return ()
        return tuple(float(side) for side in np.linalg.norm(self.affine[:3, :3], axis=0))


def plane_of(normal: npt.ArrayLike) -> str:
    """Return the plane whose slices follow each other along this direction (LPS): the nearest of the three."""
    return PLANES[int(np.abs(np.asarray(normal, np.float64)).argmax())]
