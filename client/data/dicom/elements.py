"""The one list of elements that change what pixels mean or where they lie, each with what is done about it.

An element of this list is understood, or the file is refused with the element's name, at every door. Elements that are not listed
describe the patient, the study or the acquisition, and change no number. `docs/data.md` shows this list.
"""

from dataclasses import dataclass
from typing import Literal

from pydicom.dataset import Dataset

from salus.client.data.dicom.numbers import has, items_of, not_understood, numbers_of, word_of
from salus.common.errors import UnreadableImage

# read: its value is used; applied: used, and at import written into the pixels; checked: only a value without effect is accepted;
# refused: the file is refused if it is there; no effect: it repeats something or concerns display elsewhere.
Action = Literal["read", "applied", "checked", "refused", "no effect"]
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
PALETTE = "PALETTE COLOR"


@dataclass(frozen=True)
class Element:
    """An element that changes what pixels mean or where they lie.

    Args:
        keywords: of the standard's dictionary; several that act together.
        action: what is done.
        how: in words, for the documentation.
        allowed: for ``checked``: the words (in upper case) or numbers that have no effect.
    """

    keywords: tuple[str, ...]
    action: Action
    how: str
    allowed: tuple[str | float, ...] = ()


def _e(keywords: str, action: Action, how: str, *allowed: str | float) -> Element:
    return Element(tuple(keywords.split()), action, how, allowed)


ELEMENTS = (
    _e("PixelData FloatPixelData DoubleFloatPixelData", "read", "integers of 1 to 32 bits, floats of 32 and 64 bits"),
    _e("Rows Columns NumberOfFrames SamplesPerPixel PlanarConfiguration", "read", "the form of the pixels"),
    _e("BitsAllocated BitsStored PixelRepresentation", "read", "the stored value; unused bits (old overlays) are cleared"),
    _e("HighBit", "applied", "stored values are shifted down; refused if compressed pixels would need a shift"),
    _e("PhotometricInterpretation", "read", f"{', '.join((*GREY, PALETTE, *COLOUR))}; others are refused; MONOCHROME1 "
       "changes how Hounsfield units and activity are shown, and not their values"),
    _e("RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor "
       "RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData "
       "SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData "
       "SegmentedBluePaletteColorLookupTableData", "applied", "palette colours become RGB; a supplemental palette of grey "
       "images has no effect"),
    _e("RescaleSlope RescaleIntercept", "read", "the modality's units; a slope alone has intercept 0, and the reverse slope 1; a "
       "slope of 0 is refused"),
    _e("RescaleType", "read", "names the units"),
    _e("ModalityLUTSequence", "applied", "one table, instead of slope and intercept"),
    _e("RealWorldValueMappingSequence", "read", "one linear mapping, only where there is no slope, intercept or table"),
    _e("PixelPaddingValue PixelPaddingRangeLimit FloatPixelPaddingValue FloatPixelPaddingRangeLimit "
       "DoubleFloatPixelPaddingValue DoubleFloatPixelPaddingRangeLimit", "read", "padding gets the darkest measured value of its "
       "image (of a quantity such as Hounsfield units the smallest), so that it changes no range or stretch, "
       "and counts in no statistic"),
    _e("WindowCenter WindowWidth VOILUTFunction", "read", "the first window; LINEAR below a width of 1 is taken as LINEAR_EXACT, "
       "a width of 0 as no window"),
    _e("VOILUTSequence", "read", "the first table, which wins over a window; rebuilt at import; must be monotonic"),
    _e("PresentationLUTShape", "applied", "INVERSE is shown inverted, once, also with MONOCHROME1"),
    _e("PresentationLUTSequence", "refused", "a table after the window"),
    _e("PixelSpacing", "read", "rows, then columns; one number stands for both; 0 means not known"),
    _e("ImagerPixelSpacing NominalScannedPixelSpacing", "read", "where PixelSpacing is absent"),
    _e("EstimatedRadiographicMagnificationFactor", "applied", "divides ImagerPixelSpacing where PixelSpacing is absent"),
    _e("PixelSpacingCalibrationType PixelSpacingCalibrationDescription", "no effect", "tells how PixelSpacing was found"),
    _e("SequenceOfUltrasoundRegions", "read", "where no spacing is stated: that of its regions of two dimensions in "
       "centimetres, if they agree"),
    _e("PixelAspectRatio", "read", "the ratio of spacings where there is no spacing"),
    _e("ImagePositionPatient ImageOrientationPatient", "read", "the image plane"),
    _e("SpacingBetweenSlices", "read", "the step between frames, with its sign"),
    _e("SliceThickness", "read", "the step between frames where no spacing is stated"),
    _e("FrameIncrementPointer", "read", "what varies from frame to frame"),
    _e("DetectorInformationSequence", "read", "geometry of nuclear medicine"),
    _e("SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence", "read", "enhanced objects"),
    _e("Units", "read", "of PET"),
    _e("OverlayData", "no effect", "graphics beside the pixels; never drawn, dropped at import"),
    _e("SmallestImagePixelValue LargestImagePixelValue SmallestPixelValueInSeries LargestPixelValueInSeries", "no effect",
       "repeat what the pixels say"),
    _e("PixelIntensityRelationship PixelIntensityRelationshipSign", "no effect", "tells how the detector's values arose"),
    _e("LossyImageCompression LossyImageCompressionRatio", "no effect", "tells the history of the pixels"),
    _e("PixelPresentation", "no effect", "colour beside grey values, which stay as they are"),
    _e("ZoomFactor", "no effect", "PixelSpacing includes it"),
    _e("PaletteColorLookupTableUID", "no effect", "a name of the palette, whose tables are read"),
    _e("PixelDataProviderURL", "no effect", "names pixels elsewhere; only those of the file are used"),
    _e("ColorSpace ICCProfile", "no effect", "colour management is not applied"),
    _e("EncryptedAttributesSequence", "no effect", "encrypted identifiers; dropped at import"),
    _e("DigitalSignaturesSequence", "refused", "a signed object, whose signature is not checked and would not survive a change"),
)  # fmt: skip
PIXELS = ELEMENTS[0].keywords


def keywords_of(*actions: Action) -> tuple[str, ...]:
    """Return the keywords of the elements with these actions."""
    return tuple(keyword for element in ELEMENTS if element.action in actions for keyword in element.keywords)


def check_elements(dataset: Dataset) -> None:
    """Raise UnreadableImage, with the element's name, for an element that changes pixels and that is not supported."""
    for element in ELEMENTS:
        for keyword in element.keywords:
            if element.action == "refused" and has(dataset, keyword):
                raise UnreadableImage("unsupported", f"{keyword}: {element.how}")
            if element.action == "checked" and has(dataset, keyword):
                _check_value(dataset, keyword, element.allowed)
    _check_display(dataset)


def _check_value(dataset: Dataset, keyword: str, allowed: tuple[str | float, ...]) -> None:
    if any(isinstance(value, str) for value in allowed):
        if word_of(dataset, keyword) not in ("", *allowed):
            raise not_understood(keyword, "has a value that is not supported")
    elif any(value not in allowed for value in numbers_of(dataset, keyword)):
        raise not_understood(keyword, "has a value that is not supported")


def _check_display(dataset: Dataset) -> None:
    shape = word_of(dataset, "PresentationLUTShape")
    if shape not in ("", "IDENTITY", "INVERSE", "LIN OD"):
        raise not_understood("PresentationLUTShape", "is neither IDENTITY nor INVERSE")
    if shape == "IDENTITY" and word_of(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        raise not_understood("PresentationLUTShape", "IDENTITY contradicts MONOCHROME1")
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        items_of(dataset, keyword)
