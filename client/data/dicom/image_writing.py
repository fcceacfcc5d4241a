"""Writes what an image means into a new object, so that reading it again gives the same numbers, display and place.

Tables that change the numbers have been applied; a VOI table is rebuilt from its entries. Numbers are parsed and
rounded as at every door, see `numbers`.
"""

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from salus.client.data.dicom.geometry import Geometry
from salus.client.data.dicom.intensities import Measured
from salus.client.data.dicom.meaning import Meaning, is_mosaic
from salus.client.data.dicom.numbers import has, number_of, numbers_of, rounded
from salus.client.data.dicom.tables import rebuilt

FLOATS = {4: ("FloatPixelData", "OF", "FL", 0x0122), 8: ("DoubleFloatPixelData", "OD", "FD", 0x0123)}
PADDING_VALUE, PADDING_LIMIT = 0x0120, 0x0121
FLOAT_LIMITS = {0x0122: 0x0124, 0x0123: 0x0125}
MAGNIFICATION = "EstimatedRadiographicMagnificationFactor"
PAIRS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
REGIONS = "SequenceOfUltrasoundRegions"


def write_image(clean: Dataset, dataset: Dataset, meaning: Meaning) -> None:
    """Write pixels, their units, their display and their place.

    Args:
        dataset: the original, from which only numbers are taken.
    """
    measured = meaning.measured
    _write_pixels(clean, measured.pixels, measured)
    if measured.colour:
        clean.PhotometricInterpretation, clean.PlanarConfiguration = "RGB", 0
    else:
        clean.PhotometricInterpretation = "MONOCHROME1" if meaning.inverted else "MONOCHROME2"
        _write_units(clean, measured)
        _write_window(clean, meaning)
    _write_place(clean, dataset, meaning)


def _write_pixels(clean: Dataset, pixels: npt.NDArray[Any], measured: Measured) -> None:
    size = pixels.dtype.itemsize
    clean.Rows, clean.Columns = pixels.shape[1:3]
    clean.SamplesPerPixel = 3 if measured.colour else 1
    if len(pixels) > 1:
        clean.NumberOfFrames = len(pixels)
    clean.BitsAllocated = 8 * size
    ordered = np.ascontiguousarray(pixels)
    if sys.byteorder != "little" or ordered.dtype.byteorder == ">":
        ordered = ordered.astype(ordered.dtype.newbyteorder("<"))
    data = ordered.tobytes()
    if pixels.dtype.kind == "f":
        keyword, vr, _, _ = FLOATS[size]
        clean.add_new(keyword, vr, data)
        return
    clean.BitsStored, clean.HighBit = measured.bits, measured.bits - 1
    clean.PixelRepresentation = 1 if pixels.dtype.kind == "i" else 0
    clean.add_new("PixelData", "OB" if size == 1 else "OW", data + b"\0" * (len(data) % 2))


def _write_units(clean: Dataset, measured: Measured) -> None:
    if measured.scale != "none":
        clean.RescaleSlope, clean.RescaleIntercept = short(measured.slope), short(measured.intercept)
    if measured.padding is None:
        return
    low, high = measured.padding
    if measured.pixels.dtype.kind == "f":
        _, _, vr, value = FLOATS[measured.pixels.dtype.itemsize]
        clean.add_new(Tag(0x0028, value), vr, low)
        clean.add_new(Tag(0x0028, FLOAT_LIMITS[value]), vr, high)
    elif _holds(measured, low) and _holds(measured, high):
        vr = ("S" if measured.pixels.dtype.kind == "i" else "U") + ("L" if measured.pixels.dtype.itemsize == 4 else "S")
        clean.add_new(Tag(0x0028, PADDING_VALUE), vr, int(low))
        if high != low:
            clean.add_new(Tag(0x0028, PADDING_LIMIT), vr, int(high))


def _holds(measured: Measured, value: float) -> bool:
    """Return whether some pixel could have this value; padding that none can have is not written."""
    limits = np.iinfo(measured.pixels.dtype)
    return limits.min <= value <= limits.max and value == int(value)


def _write_window(clean: Dataset, meaning: Meaning) -> None:
    window = meaning.window
    if window.table is not None:
        clean.VOILUTSequence = [rebuilt(window.table)]
    elif window.function != "STRETCH":
        clean.WindowCenter, clean.WindowWidth = short(window.centre), short(window.width)
        clean.VOILUTFunction = window.function


def _write_place(clean: Dataset, dataset: Dataset, meaning: Meaning) -> None:
    geometry = meaning.geometry
    _write_spacing(clean, dataset, geometry)
    if geometry.position is not None:
        clean.ImagePositionPatient = [short(value) for value in geometry.position]
    if numbers_of(dataset, "ImageOrientationPatient"):
        axes = (*geometry.row_direction, *geometry.column_direction)
        clean.ImageOrientationPatient = [short(value) for value in axes]
    spacing = number_of(dataset, "SpacingBetweenSlices")
    if is_mosaic(dataset):
        spacing = rounded(float(geometry.normal @ meaning.step))
    if spacing:
        clean.SpacingBetweenSlices = short(spacing)


def _write_spacing(clean: Dataset, dataset: Dataset, geometry: Geometry) -> None:
    """Write the element that `geometry.spacing_of` has used, and only that: others may not even be numbers."""
    for keyword in PAIRS:
        values = numbers_of(dataset, keyword)
        if values and all(values):
            setattr(clean, keyword, [short(values[0]), short(values[-1])])
            magnification = number_of(dataset, MAGNIFICATION) if keyword == "ImagerPixelSpacing" else None
            if magnification:
                setattr(clean, MAGNIFICATION, short(magnification))
            return
    ratio = numbers_of(dataset, "PixelAspectRatio")
    if has(dataset, REGIONS) and geometry.spacing_mm != (1.0, 1.0):
        clean.PixelSpacing = [short(value) for value in geometry.spacing_mm]
    elif ratio:
        clean.PixelAspectRatio = [int(value) for value in ratio]


def short(value: float) -> float | int:
    """Return a number as it is written: whole ones without a point."""
    return int(value) if value == int(value) else rounded(value)
