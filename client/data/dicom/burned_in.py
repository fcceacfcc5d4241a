"""What is done with images that may show names: which they are, and which pixels are set to zero.

    no mask, no detector    refused
    a mask of the device    its boxes are blanked
    the detector            what lies outside the ultrasound regions is blanked, and then all text that is found, with a margin
    both                    both

The detector can miss text, so an operator looks at what it did before the data set is used, see `commands.approving`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from salus.client.data.dicom.numbers import safely, whole_of, words_of
from salus.client.data.dicom.text import INSTALL, Box
from salus.common.errors import UnreadableImage

MODALITIES = {"US", "SC", "OT"}  # names are often burned into these images, whatever their header says
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# Ultrasound of several images and of one, and secondary capture with its subclasses; photographs are 77.
CLASSES = ("1.2.840.10008.5.1.4.1.1.3.", "1.2.840.10008.5.1.4.1.1.6.", f"{SECONDARY_CAPTURE}.")
REGIONS, MOST_REGIONS = "SequenceOfUltrasoundRegions", 64
CORNERS = ("RegionLocationMinY0", "RegionLocationMinX0", "RegionLocationMaxY1", "RegionLocationMaxX1")
SHOWN = {1, 2, 3, 4}  # RegionSpatialFormat (PS3.3 C.8.5.5.1.1): 2-D, M-mode, spectrum, waveform; 5 is graphics


class Finder(Protocol):
    """What finds text, such as `text.TextFinder`."""

    def find(self, pixels: npt.NDArray[Any]) -> tuple[Box, ...]:
        """Return the places of text in ``[frames, rows, columns]`` or ``[frames, rows, columns, 3]``."""


@dataclass(frozen=True)
class Blanked:
    """What was set to zero because a detector looked for text.

    Args:
        boxes: the places of text, each first row, first column, rows, columns.
        outside: whether everything outside the ultrasound regions was set to zero.
    """

    boxes: tuple[Box, ...] = ()
    outside: bool = False


def may_show_names(dataset: Dataset) -> bool:
    """Return whether an image may have names burned into its pixels: one sign is enough, however it is padded or spelled."""
    return (
        "YES" in words_of(dataset, "BurnedInAnnotation")
        or not MODALITIES.isdisjoint(words_of(dataset, "Modality"))
        or any(f"{uid}.".startswith(CLASSES) for uid in words_of(dataset, "SOPClassUID"))
    )


def blank(
    dataset: Dataset, pixels: npt.NDArray[Any], boxes: Sequence[Box] | None, finder: Finder | None
) -> tuple[npt.NDArray[Any], Blanked | None]:
    """Return an image's pixels without what may be a name, and what was done; None where no detector looked.

    Args:
        pixels: ``[frames, rows, columns]`` or ``[frames, rows, columns, 3]``; not changed.
        boxes: of the device's mask, None without one.

    Raises:
        UnreadableImage: ``burned-in``, for an image that may show names and has neither mask nor detector.
    """
    named = may_show_names(dataset)
    if named and boxes is None and finder is None:
        raise UnreadableImage(
            "burned-in",
            "this image may have names burned into its pixels; give a mask for the device, or install the text detector: "
            + INSTALL,
        )
    pixels = without(pixels, boxes or ())
    if not named or finder is None:
        return pixels, None
    kept = _regions(dataset, pixels.shape[1], pixels.shape[2])
    if kept is not None:
        pixels = pixels.copy()
        pixels[:, ~kept] = 0
    found = finder.find(pixels)
    return without(pixels, found), Blanked(found, kept is not None)


def without(pixels: npt.NDArray[Any], boxes: Sequence[Box]) -> npt.NDArray[Any]:
    """Return pixels with these boxes set to zero in all frames."""
    if not boxes:
        return pixels
    blanked = pixels.copy()
    for row, column, height, width in boxes:
        blanked[:, row : row + height, column : column + width] = 0
    return blanked


def _regions(dataset: Dataset, rows: int, columns: int) -> npt.NDArray[np.bool_] | None:
    """Return which pixels the ultrasound regions hold; None without regions, or if one cannot be understood."""
    items = safely(lambda: list(dataset.get(REGIONS) or [])[:MOST_REGIONS], [])
    kept = np.zeros((rows, columns), bool)
    for item in items:
        # A damaged region only means that the whole image is searched for text.
        corners = [safely(lambda word=word, item=item: whole_of(item, word, -1, most=2**16), -1) for word in CORNERS]  # type: ignore[misc]
        form = safely(lambda item=item: whole_of(item, "RegionSpatialFormat", 0, most=2**16), 0)  # type: ignore[misc]
        top, left, bottom, right = corners
        if not (0 <= top <= bottom < rows and 0 <= left <= right < columns):
            return None
        if form in SHOWN:
            kept[top : bottom + 1, left : right + 1] = True
    return kept if kept.any() else None
