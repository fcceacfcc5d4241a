"""From stored values to the modality's own units: slope and intercept, tables, palettes, padding (PS3.3 C.11.1, C.7.5.1.1.2).

Both doors use this: `picture` computes with the result, and `deidentify` writes it down. So a file gives the same numbers whether
it is read in place or imported first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from salus.client.data.dicom.elements import PALETTE
from salus.client.data.dicom.numbers import items_of, not_understood, number_of, word_of
from salus.client.data.dicom.palettes import coloured
from salus.client.data.dicom.stored import Form, stored_pixels
from salus.client.data.dicom.tables import check_harmless, table_of
from salus.client.data.records import FloatArray

# Values of these are quantities, such as Hounsfield units or activity: how they are shown does not change them.
QUANTITIES = {"CT", "PT", "NM"}
QUANTITY_TYPES = {"HU", "HU_MOD", "PCT", "Z_EFF", "ED", "EDW", "MGML"}
PADDING = {"PixelData": "", "FloatPixelData": "Float", "DoubleFloatPixelData": "DoubleFloat"}
# How measured values arise: no slope, intercept or table is stated, one that changes nothing, or another.
Scale = Literal["none", "identity", "stated"]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """An image whose values are ``slope * pixels + intercept``, or colours.

    Args:
        pixels: ``[frames, rows, columns]``, or ``[frames, rows, columns, 3]`` in RGB.
        bits: of an integer pixel.
        padding: the smallest and largest pixel that is no measurement, or None.
    """

    pixels: npt.NDArray[Any]
    bits: int
    slope: float = 1.0
    intercept: float = 0.0
    padding: tuple[float, float] | None = None
    scale: Scale = "none"

    @property
    def colour(self) -> bool:
        """Whether it is in colour."""
        return self.pixels.ndim == 4

    @property
    def ends(self) -> tuple[float, float]:
        """The measured values of the smallest and largest pixel that the bits can hold; of floats the ones that occur."""
        if self.pixels.dtype.kind == "f":
            low, high = float(self.pixels.min()), float(self.pixels.max())
        else:
            low = -(2.0 ** (self.bits - 1)) if self.pixels.dtype.kind == "i" else 0.0
            high = low + 2.0**self.bits - 1
        return self.slope * low + self.intercept, self.slope * high + self.intercept

    @property
    def signed(self) -> bool:
        """Whether measured values may be negative."""
        return min(self.ends) < 0

    def padded(self) -> Bools | None:
        """Return which pixels are padding, or None if none is."""
        if self.padding is None:
            return None
        found: Bools = (self.pixels >= self.padding[0]) & (self.pixels <= self.padding[1])
        return found if found.any() else None

    def values(self) -> FloatArray:
        """Return measured values, ``[frames, rows, columns]``, or colours from 0 to 1, ``[frames, 3, rows, columns]``."""
        if self.colour:
            return np.moveaxis(self.pixels, -1, 1).astype(np.float32) / np.float32(2**self.bits - 1)
        measured = np.empty(self.pixels.shape, np.float32)
        for row, part in enumerate(self.pixels):  # in double precision, but never all of a volume at once
            measured[row] = part.astype(np.float64) * self.slope + self.intercept
        return measured


def is_quantity(dataset: Dataset) -> bool:
    """Return whether an image's values are quantities with a meaning of their own, whatever its polarity."""
    return word_of(dataset, "Modality") in QUANTITIES or word_of(dataset, "RescaleType") in QUANTITY_TYPES


def measured_of(dataset: Dataset) -> Measured:
    """Return what an image measures.

    Raises:
        UnreadableImage: it cannot be decoded, or an element that changes what its pixels mean is not understood; by its name.
    """
    form, pixels = stored_pixels(dataset)
    if form.photometric == PALETTE:
        colours = coloured(dataset, pixels, signed=form.signed)
        return Measured(colours, 8 * colours.dtype.itemsize)
    if form.samples == 3:
        return Measured(pixels, form.bits)
    padding = _padding(dataset, form)
    table = None if form.floats else table_of(dataset, "ModalityLUTSequence", signed=form.signed)
    if table is not None:
        check_harmless(table, "ModalityLUTSequence")  # a ramp of pixels would show its entries one by one
        entries = table.array if table.bits > 8 else table.array.astype(np.uint8)
        through = np.empty(pixels.shape, entries.dtype)
        for row, part in enumerate(pixels):
            through[row] = entries[table.places(part.astype(np.float64))]
        padded = replace(Measured(pixels, form.bits), padding=padding).padded()
        return _reserved(Measured(through, table.bits, scale="stated"), padded)
    slope, intercept, scale = _scale(dataset)
    return Measured(pixels, form.bits, slope, intercept, padding, scale)


def _scale(dataset: Dataset) -> tuple[float, float, Scale]:
    """Return slope, intercept and whether they are stated; those of a real world value mapping where there are no others."""
    slope, intercept = number_of(dataset, "RescaleSlope"), number_of(dataset, "RescaleIntercept")
    if slope is None and intercept is None:
        mappings = items_of(dataset, "RealWorldValueMappingSequence")
        if len(mappings) > 1:
            raise not_understood("RealWorldValueMappingSequence", "has several mappings, and there is no RescaleSlope")
        if mappings:
            slope = number_of(mappings[0], "RealWorldValueSlope")
            intercept = number_of(mappings[0], "RealWorldValueIntercept")
            if slope is None or intercept is None:
                raise not_understood("RealWorldValueMappingSequence", "is not linear, and there is no RescaleSlope")
    if slope == 0:
        raise not_understood("RescaleSlope", "is 0")
    found = 1.0 if slope is None else slope, intercept or 0.0
    if slope is None and intercept is None:
        return *found, "none"
    return *found, "identity" if found == (1.0, 0.0) else "stated"


def _padding(dataset: Dataset, form: Form) -> tuple[float, float] | None:
    """Return the smallest and the largest stored value that is padding, in the pixels' own representation."""
    prefix = PADDING[form.keyword] + "PixelPadding"
    value, limit = number_of(dataset, f"{prefix}Value"), number_of(dataset, f"{prefix}RangeLimit")
    if value is None:
        return None
    ends = [_represented(number, form) for number in (value, value if limit is None else limit)]
    return min(ends), max(ends)


def _represented(value: float, form: Form) -> float:
    """Return a value in the pixels' representation; devices write it as signed and as unsigned (VR ``US or SS``)."""
    if form.floats:
        return value
    if form.signed and value >= 2 ** (form.bits - 1):
        return value - 2.0 ** (form.bits if value < 2**form.bits else 16 if value < 2**16 else 32)
    if not form.signed and value < 0:
        return value + 2.0**16
    return value


def _reserved(measured: Measured, padded: Bools | None) -> Measured:
    """Return an image whose padding has a value that no other pixel has, as a table may map both to one value."""
    if padded is None or padded.all():
        return measured
    used = np.bincount(measured.pixels[~padded].ravel(), minlength=2**measured.bits) > 0
    free = np.flatnonzero(~used)
    if not len(free):
        raise not_understood("PixelPaddingValue", "cannot be told from measurements after ModalityLUTSequence")
    pixels = np.where(padded, measured.pixels.dtype.type(free[-1]), measured.pixels)
    return replace(measured, pixels=pixels, padding=(float(free[-1]), float(free[-1])))


def filled(values: FloatArray, padded: Bools | None, *, inverted: bool) -> FloatArray:
    """Return measured values in which padding has the darkest measured value, so that it changes no range and no stretch.

    An image of nothing but padding keeps its values.
    """
    if padded is None or padded.all():
        return values
    real = values[~padded]
    result: FloatArray = np.where(padded, real.max() if inverted else real.min(), values)
    return result


def joined(parts: Sequence[tuple[tuple[int, ...], Bools | None]]) -> Bools | None:
    """Return which values of several images, one after the other, are padding; None if none is.

    Args:
        parts: of each image its shape and its padding.
    """
    if all(padding is None for _, padding in parts):
        return None
    return np.concatenate([np.zeros(shape, np.bool_) if padding is None else padding for shape, padding in parts])
