"""Where the pixels of a DICOM image lie in the patient (PS3.3 C.7.6.2), Siemens mosaics included."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pydicom

from salus.client.data.records import FloatArray
from salus.common.errors import UnreadableImage

ANGLE_TOLERANCE = 0.01
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """Where the pixels lie in the patient, in millimetres, LPS (x to the left, y to the back, z to the head).

    Args:
        spacing_mm: distance between rows, then between columns.
        row_direction: unit vector along increasing column number.
        column_direction: unit vector along increasing row number.
        position: centre of the first pixel, or None for a projection image.
    """

    spacing_mm: tuple[float, float]
    row_direction: tuple[float, float, float]
    column_direction: tuple[float, float, float]
    position: tuple[float, float, float] | None

    @property
    def normal(self) -> Float64:
        """Unit vector normal to the plane, in which slices follow each other."""
        return np.cross(self.row_direction, self.column_direction)


def read_geometry(dataset: pydicom.Dataset) -> Geometry:
    """Return the image plane; a projection image gets spacing from its detector and the standard orientation.

    Raises:
        UnreadableImage: numbers that do not describe a plane: not finite, spacing not positive, or axes not at right angles.
    """
    spacing = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    orientation = dataset.get("ImageOrientationPatient")
    position = dataset.get("ImagePositionPatient")
    rows_mm, columns_mm = (float(spacing[0]), float(spacing[1])) if spacing else (1.0, 1.0)
    cosines = [float(value) for value in orientation] if orientation else [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    where = (float(position[0]), float(position[1]), float(position[2])) if position else None
    row, column = np.array(cosines[:3]), np.array(cosines[3:6])
    right_angles = np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=ANGLE_TOLERANCE)
    if not (0 < rows_mm < np.inf and 0 < columns_mm < np.inf and right_angles and np.isfinite(where or (0.0,)).all()):
        raise UnreadableImage("bad-geometry", "spacing, orientation or position do not describe an image plane")
    return Geometry(
        (rows_mm, columns_mm), (cosines[0], cosines[1], cosines[2]), (cosines[3], cosines[4], cosines[5]), where
    )


def untile(dataset: pydicom.Dataset, values: FloatArray, geometry: Geometry) -> tuple[FloatArray, Geometry, Float64]:
    """Split a Siemens mosaic, one image that holds all slices as tiles, into frames at their true positions.

    The tile count and the true corner come from Siemens' private header, read by nibabel.
    """
    from nibabel.nicom.dicomwrappers import MosaicWrapper

    wrapper = MosaicWrapper(dataset)  # type: ignore[no-untyped-call]
    rows, columns, count = wrapper.image_shape
    across = values.shape[-1] // columns
    tiles = values[0].reshape(values.shape[-2] // rows, rows, across, columns).swapaxes(1, 2).reshape(-1, rows, columns)
    affine = np.asarray(wrapper.affine, dtype=np.float64)  # from (row, column, slice) to LPS
    corner = affine[:3, 3]
    placed = dataclasses.replace(geometry, position=(float(corner[0]), float(corner[1]), float(corner[2])))
    return np.ascontiguousarray(tiles[:count]), placed, affine[:3, 2]


def slice_spacing_mm(dataset: pydicom.Dataset) -> float:
    """Return a file's slice spacing in millimetres, or 1 if it states none."""
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        value = dataset.get(name)
        if value and 0 < abs(float(value)) < np.inf:
            return abs(float(value))
    return 1.0


def plane_affine(geometry: Geometry, step_mm: tuple[float, float, float]) -> Float64 | None:
    """Return the matrix ``[4, 4]`` from (z, y, x) to millimetres, LPS, of one plane; None for a projection.

    Args:
        step_mm: to the next plane.
    """
    if geometry.position is None:
        return None
    affine = np.eye(4)
    affine[:3, 0] = step_mm
    affine[:3, 1] = np.array(geometry.column_direction) * geometry.spacing_mm[0]
    affine[:3, 2] = np.array(geometry.row_direction) * geometry.spacing_mm[1]
    affine[:3, 3] = geometry.position
    return affine
