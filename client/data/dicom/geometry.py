"""Where the pixels of a DICOM image lie in the patient (PS3.3 C.7.6.2), Siemens mosaics included."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom

from salus.client.data.dicom.numbers import items_of, not_understood, number_of, numbers_of, rounded, whole_of
from salus.common.errors import UnreadableImage

ANGLE_TOLERANCE = 0.01
TWO_DIMENSIONAL, CENTIMETRES = 1, 3  # codes of RegionSpatialFormat and PhysicalUnits (C.8.5.5.1)
STANDARD = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # orientation of a projection image
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
        UnreadableImage: numbers that do not describe a plane: spacing not positive, or axes not at right angles;
            ``not-understood`` for an element that is not numbers.
    """
    rows_mm, columns_mm = spacing_of(dataset)
    cosines = numbers_of(dataset, "ImageOrientationPatient") or STANDARD
    position = numbers_of(dataset, "ImagePositionPatient")
    if len(cosines) != 6:
        raise not_understood("ImageOrientationPatient", "is not six numbers")
    if len(position) not in (0, 3):
        raise not_understood("ImagePositionPatient", "is not three numbers")
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=ANGLE_TOLERANCE):
        raise UnreadableImage("bad-geometry", "ImageOrientationPatient is not two unit vectors at right angles")
    where = (position[0], position[1], position[2]) if position else None
    return Geometry(
        (rows_mm, columns_mm), (cosines[0], cosines[1], cosines[2]), (cosines[3], cosines[4], cosines[5]), where
    )


def spacing_of(dataset: pydicom.Dataset) -> tuple[float, float]:
    """Return the distance between rows and between columns in millimetres, ``(1, 1)`` or the aspect ratio if it is not known.

    A spacing of 0 means not known. A detector's spacing is divided by the magnification of the projection (PS3.3 C.8.7.10).
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        values = numbers_of(dataset, keyword)
        if len(values) > 2:
            raise not_understood(keyword, "is not two numbers")
        if any(value < 0 for value in values):
            raise UnreadableImage("bad-geometry", f"{keyword} is negative")
        if not values or not any(values):
            continue
        if not all(values):
            raise UnreadableImage("bad-geometry", f"{keyword} is 0 in one direction only")
        magnification = None
        if keyword == "ImagerPixelSpacing":
            magnification = number_of(dataset, "EstimatedRadiographicMagnificationFactor")
            if magnification is not None and magnification < 0:
                raise not_understood("EstimatedRadiographicMagnificationFactor", "is negative")
        return values[0] / (magnification or 1.0), values[-1] / (magnification or 1.0)
    scanned = _of_regions(dataset)
    if scanned is not None:
        return scanned
    ratio = numbers_of(dataset, "PixelAspectRatio")
    if ratio and (len(ratio) != 2 or min(ratio) <= 0 or any(value != int(value) for value in ratio)):
        raise not_understood("PixelAspectRatio", "is not two whole numbers above 0")
    if ratio:
        return ratio[0] / ratio[1], 1.0
    return 1.0, 1.0


def _of_regions(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    """Return the spacing that all two-dimensional regions of an ultrasound image state in centimetres, or None (C.8.5.5)."""
    found: set[tuple[float, float]] = set()
    for region in items_of(dataset, "SequenceOfUltrasoundRegions"):
        units = [number_of(region, f"PhysicalUnits{axis}Direction") for axis in "XY"]
        if number_of(region, "RegionSpatialFormat") == TWO_DIMENSIONAL and units == [CENTIMETRES] * 2:
            down, across = (number_of(region, f"PhysicalDelta{axis}") for axis in "YX")
            if not down or not across:
                raise not_understood("SequenceOfUltrasoundRegions", "has a region in centimetres without PhysicalDelta")
            found.add((rounded(10.0 * abs(down)), rounded(10.0 * abs(across))))
    return found.pop() if len(found) == 1 else None


def untile(
    dataset: pydicom.Dataset, pixels: npt.NDArray[Any], geometry: Geometry
) -> tuple[npt.NDArray[Any], Geometry, Float64]:
    """Split a Siemens mosaic, one image that holds all slices as tiles, into frames at their true positions.

    Returns frames, the plane of the first, and the step to the next along the normal.

    The tile count and the true corner come from Siemens' private header, read by nibabel.
    """
    from nibabel.nicom.dicomwrappers import MosaicWrapper

    wrapper = MosaicWrapper(dataset)  # type: ignore[no-untyped-call]
    rows, columns, count = wrapper.image_shape
    across = pixels.shape[-1] // columns
    tiles = pixels[0].reshape(pixels.shape[-2] // rows, rows, across, columns).swapaxes(1, 2).reshape(-1, rows, columns)
    affine = np.asarray(wrapper.affine, dtype=np.float64)  # from (row, column, slice) to LPS
    x, y, z = (rounded(float(value)) for value in affine[:3, 3])
    placed = dataclasses.replace(geometry, position=(x, y, z))
    step = placed.normal * rounded(float(placed.normal @ affine[:3, 2]))
    return np.ascontiguousarray(tiles[:count]), placed, step


def slice_spacing_mm(dataset: pydicom.Dataset) -> float:
    """Return the step between frames along the normal in millimetres, or 1 if none is stated.

    Guarantees: never 0; negative only for several frames that run against the normal (PS3.3 C.8.4.8).
    """
    spacing = number_of(dataset, "SpacingBetweenSlices")
    if spacing:
        return spacing if whole_of(dataset, "NumberOfFrames", 1) > 1 else abs(spacing)
    try:
        thickness = number_of(dataset, "SliceThickness")
    except UnreadableImage:  # of no meaning where planes have positions of their own
        thickness = None
    return abs(thickness) if thickness else 1.0


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
