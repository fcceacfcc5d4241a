"""From measured values to display values: windows, VOI tables and polarity (PS3.3 C.11.2.1.2, C.11.6)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from salus.client.data.dicom.numbers import not_understood, numbers_of, word_of
from salus.client.data.dicom.tables import Table, check_harmless, table_of
from salus.client.data.records import FloatArray

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """How measured values become display values: a window function, a table, or a stretch from the smallest to the largest value.

    Args:
        function: one of `FUNCTIONS`, ``TABLE`` or ``STRETCH``.
        table: for ``TABLE``.
    """

    function: str = "STRETCH"
    centre: float = 0.0
    width: float = 0.0
    table: Table | None = None


def window_of(dataset: Dataset, *, signed: bool) -> Window:
    """Return the display that a file asks for: its first VOI table, else its first window, else a stretch.

    Args:
        signed: whether measured values may be negative.

    Raises:
        UnreadableImage: ``not-understood``, with the element's name.
    """
    table = table_of(dataset, "VOILUTSequence", signed=signed)
    if table is not None:
        check_harmless(table, "VOILUTSequence")
        return Window("TABLE", table=table)
    centres, widths = numbers_of(dataset, "WindowCenter"), numbers_of(dataset, "WindowWidth")
    function = word_of(dataset, "VOILUTFunction") or "LINEAR"
    if not centres and not widths:
        return Window()
    if not centres or not widths:
        missing, there = ("WindowWidth", "WindowCenter") if centres else ("WindowCenter", "WindowWidth")
        raise not_understood(missing, f"is missing beside {there}")
    if function not in FUNCTIONS:
        raise not_understood("VOILUTFunction", f"is none of {', '.join(FUNCTIONS)}")
    if widths[0] < 0:
        raise not_understood("WindowWidth", "is negative")
    if widths[0] == 0:  # what some devices write where there is no window
        return Window()
    if function == "LINEAR" and widths[0] < 1:  # not defined there; devices mean LINEAR_EXACT (fo-dicom/fo-dicom#1999)
        function = "LINEAR_EXACT"
    return Window(function, centres[0], widths[0])


def inverted_of(dataset: Dataset) -> bool:
    """Return whether the smallest value is shown white; the presentation LUT repeats what MONOCHROME1 says."""
    shape = word_of(dataset, "PresentationLUTShape")
    return word_of(dataset, "PhotometricInterpretation") == "MONOCHROME1" or shape == "INVERSE"


def show(values: FloatArray, window: Window, *, inverted: bool) -> FloatArray:
    """Return display values from 0 to 1, brighter is larger (`inverted` for MONOCHROME1)."""
    low, high = float(values.min()), float(values.max())
    shown = np.empty_like(values)
    for row, part in enumerate(values):  # in double precision, but never all of a volume at once
        shown[row] = _shown(part.astype(np.float64), window, low, high, inverted=inverted)
    return shown


def _shown(exact: Float64, window: Window, low: float, high: float, *, inverted: bool) -> Float64:
    centre, width = window.centre, window.width
    if window.table is not None:
        unit = window.table.array[window.table.places(exact)] / float(2**window.table.bits - 1)
    elif window.function == "STRETCH":
        unit = (exact - low) / (high - low) if high > low else np.zeros_like(exact)
    elif window.function == "SIGMOID":
        unit = 1.0 / (1.0 + np.exp(np.clip(-4.0 * (exact - centre) / width, -700, 700)))
    elif window.function == "LINEAR_EXACT":
        unit = np.clip((exact - centre) / width + 0.5, 0.0, 1.0)
    elif width <= 1:  # C.11.2.1.2.1: a threshold
        unit = (exact > centre - 0.5).astype(np.float64)
    else:
        unit = np.clip((exact - (centre - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)
    return 1.0 - unit if inverted else unit
