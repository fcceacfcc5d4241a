"""A processed image as a new object of its source's kind: same patient, study and place, other pixels, and what was done.

It is built in the sandboxed child from the bytes of the source, so that no element of a file is parsed outside of it
(PS3.3, C.7.6.1.1.2 image type, C.7.6.1.1.4 source image sequence, C.12.4.1 derivation).
"""

import io
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydantic import Field
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from salus.client.data.dicom.instances import Uid
from salus.common.errors import UnreadableImage
from salus.common.strict import Strict

STEPS = 65_535
MAX_TEXT = 1024
# What described the pixels of the source; some of it would make a reader change the new ones.
OF_THE_PIXELS = (
    "PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    "SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth",
    "WindowCenterWidthExplanation", "VOILUTFunction", "RealWorldValueMappingSequence", "IconImageSequence",
    "DigitalSignaturesSequence", "MACParametersSequence", "OriginalAttributesSequence",
)  # fmt: skip


class Derivation(Strict):
    """What a derived image says of itself.

    Args:
        sop_instance_uid, series_uid: new identifiers.
        description: what was done, for people.
        lossy: the name of the compression that the pixels went through (PS3.3, C.7.6.1.1.5.1); empty for none.
        ratio: how many times smaller that was.
    """

    sop_instance_uid: Uid
    series_uid: Uid
    series_number: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    description: Annotated[str, Field(max_length=MAX_TEXT)]
    lossy: Annotated[str, Field(pattern=r"^[A-Z0-9_]{0,16}$")] = ""
    ratio: Annotated[float, Field(ge=0, le=1e6)] = 0.0


def derived(dataset: Dataset, values: npt.NDArray[np.float32], derivation: Derivation) -> bytes:
    """Return the file of a derived image.

    Args:
        dataset: the source.
        values: ``[rows, columns]`` in the unit that the source's rescaled values have.

    Raises:
        UnreadableImage: a source with several frames or colours, or of another size; values that are no numbers.
    """
    if int(dataset.get("NumberOfFrames", 1) or 1) != 1:
        raise UnreadableImage("several-frames", "a derived image of a file with several frames is not written")
    if int(dataset.get("SamplesPerPixel", 1) or 1) != 1:
        raise UnreadableImage("colour", "a derived image of a colour image is not written")
    if (int(dataset.Rows), int(dataset.Columns)) != values.shape:
        raise UnreadableImage("other-grid", "the processed image has another size than its source")
    if not np.isfinite(values).all():
        raise UnreadableImage("not-finite", "the processed image has values that are no numbers")
    source = str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)
    dataset.remove_private_tags()
    for keyword in OF_THE_PIXELS:
        if keyword in dataset:
            delattr(dataset, keyword)
    _write_pixels(dataset, values)
    kind = [str(part) for part in dataset.get("ImageType", None) or []]
    dataset.ImageType = ["DERIVED", *(kind[1:] or ["PRIMARY"])]
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID = UID(derivation.sop_instance_uid), UID(derivation.series_uid)
    dataset.SeriesNumber = derivation.series_number
    dataset.SeriesDescription = f"Processed: {derivation.description}"[:64]
    dataset.DerivationDescription = derivation.description
    dataset.SourceImageSequence = [_reference(*source)]
    if derivation.lossy:
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionRatio = [
            *_several(dataset, "LossyImageCompressionRatio"),
            f"{derivation.ratio:.4g}",
        ]
        dataset.LossyImageCompressionMethod = [*_several(dataset, "LossyImageCompressionMethod"), derivation.lossy]
    return _file(dataset)


def _several(dataset: Dataset, keyword: str) -> list[str]:
    value = dataset.get(keyword, None)
    return [] if value in (None, "") else [str(v) for v in (value if not isinstance(value, str | float) else [value])]


def _write_pixels(dataset: Dataset, values: npt.NDArray[np.float32]) -> None:
    """Write whole numbers exactly, and others in 65 536 steps over their range."""
    exact = values.astype(np.float64)
    low, high = float(exact.min()), float(exact.max())
    whole = bool((exact == np.rint(exact)).all()) and high - low <= STEPS
    step = 1.0 if whole or not high > low else (high - low) / STEPS
    codes = np.rint((exact - low) / step).astype("<u2")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.SamplesPerPixel = 1
    dataset.RescaleSlope, dataset.RescaleIntercept = f"{step:.10g}", f"{low:.10g}"
    if "RescaleType" not in dataset:
        dataset.RescaleType = "US"
    window = np.percentile(exact, (0.5, 99.5))
    dataset.WindowCenter, dataset.WindowWidth = f"{window.mean():.8g}", f"{max(window[1] - window[0], step, 1e-6):.8g}"
    dataset.add_new("PixelData", "OW", codes.tobytes())


def _reference(sop_class: str, instance: str) -> Dataset:
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source Image for Image Processing Operation"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = UID(sop_class), UID(instance)
    reference.PurposeOfReferenceCodeSequence = [purpose]
    return reference


def _file(dataset: Any) -> bytes:
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
