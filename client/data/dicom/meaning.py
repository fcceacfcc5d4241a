"""What one file's image means: its measured values, how they are shown, and where they lie. Both doors start from here."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from salus.client.data.dicom.display import Window, inverted_of, window_of
from salus.client.data.dicom.geometry import Geometry, read_geometry, slice_spacing_mm, untile
from salus.client.data.dicom.intensities import Measured, is_quantity, measured_of
from salus.client.data.dicom.numbers import words_of


@dataclass(frozen=True)
class Meaning:
    """An image that is understood.

    Args:
        inverted: whether the smallest value is shown white.
        quantity: whether its values mean the same whatever the polarity, as Hounsfield units do.
        step: from one frame to the next, in millimetres, LPS.
    """

    measured: Measured
    window: Window
    inverted: bool
    quantity: bool
    geometry: Geometry
    step: npt.NDArray[np.float64]


def meaning_of(dataset: Dataset) -> Meaning:
    """Return what an image means; an enhanced object is split into its frames before, see `frames`.

    Raises:
        UnreadableImage: it cannot be decoded, or an element that matters is not understood; with the element's name.
    """
    measured = measured_of(dataset)
    window = Window() if measured.colour else window_of(dataset, signed=measured.signed)
    inverted = not measured.colour and inverted_of(dataset)
    geometry = read_geometry(dataset)
    step = geometry.normal * slice_spacing_mm(dataset)
    if is_mosaic(dataset):
        pixels, geometry, step = untile(dataset, measured.pixels, geometry)
        measured = replace(measured, pixels=pixels)
    return Meaning(measured, window, inverted, is_quantity(dataset), geometry, step)


def is_mosaic(dataset: Dataset) -> bool:
    """Return whether one image holds all slices of a volume as tiles, as Siemens writes functional MR."""
    return "MOSAIC" in words_of(dataset, "ImageType")
