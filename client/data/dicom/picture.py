"""From one DICOM file to numbers: modality LUT and rescale, VOI window, photometric interpretation.

Follows DICOM PS3.3: C.11.1 (modality), C.11.2.1.2 (window functions), C.7.6.3.1.2 (photometric interpretation), C.7.6.2
(image plane). Truncated files read silently in pydicom and fail only at the pixels, so a file counts as readable only
after its pixels were decoded.
"""

import hashlib
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pydicom
from pydantic import Field
from pydicom.errors import InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.uid import DeflatedExplicitVRLittleEndian

from salus.client.data.dicom.dimensions import Dimensions, dimensions_of
from salus.client.data.dicom.geometry import Geometry, read_geometry, slice_spacing_mm, untile
from salus.client.data.dicom.person import age_years
from salus.client.data.identity import normalised
from salus.client.data.records import FloatArray, array_digest
from salus.common.errors import UnreadableImage
from salus.common.people import OLDEST_YEARS, Sex, sex_of
from salus.common.strict import Strict
from salus.common.vocabulary import modality_of, vendor_of

MAX_PIXELS = 2**28  # rows x columns x frames x samples, checked before decoding; a CT of 1000 slices of 512 x 512 fits

Float64 = npt.NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """How rescaled values become display values: a window function, or a stretch from the smallest to the largest value."""

    function: str = "STRETCH"
    centre: float = 0.0
    width: float = 0.0


@dataclass(frozen=True)
class DicomImage:
    """A decoded file.

    Args:
        values: ``[frames, rows, columns]`` or ``[frames, 3, rows, columns]``, 0 .. 1, float32.
        rescaled: the same before its window, for volumes, whose slices must share one.
        frame_step_mm: from one frame to the next in LPS; along the normal unless the file says otherwise.
        intensities: like `values`, in the modality's own units before any window, brighter is larger.
        pixel_sha256: hash of the decoded pixels, the same for two files that differ in their headers only.
        dimensions: what may vary between images of one place, see `dimensions`.
        thickness_mm: of one slice, 0 if the file does not say.
    """

    values: FloatArray
    rescaled: FloatArray
    window: Window
    inverted: bool
    geometry: Geometry
    patient_id: str
    study_uid: str
    series_uid: str
    instance_number: int
    frame_step_mm: tuple[float, float, float]
    sha256: str
    intensities: FloatArray
    pixel_sha256: str
    info: dict[str, str | float | int | list[float]]
    instance_uid: str = ""
    accession_number: str = ""
    frame_of_reference: str = ""
    dimensions: Mapping[str, float | str] = field(default_factory=dict)
    thickness_mm: float = 0.0


def guarded(name: str, action: Callable[[], T]) -> T:
    """Run `action` and turn every error that damaged DICOM causes into UnreadableImage with a reason.

    The library's own text is dropped: it may quote a patient's values.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns about values it corrects; the corrected value is used
            return action()
    except UnreadableImage:
        raise
    except FileNotFoundError:
        raise UnreadableImage("missing", f"{name} no longer exists") from None
    except InvalidDicomError:
        raise UnreadableImage("not-dicom", f"{name} is not a DICOM file") from None
    except RecursionError:
        raise UnreadableImage("nested-too-deep", f"{name} nests sequences too deeply") from None
    except NotImplementedError:
        raise UnreadableImage("unsupported", f"{name} uses an encoding that is not supported") from None
    except MemoryError:
        raise UnreadableImage("too-large", f"{name} needs more memory than is available") from None
    except Exception as problem:
        # Found by trial: AttributeError, ValueError, RuntimeError, OSError, EOFError, struct.error, BytesLengthException and
        # whatever the decoders raise. The list has no end, and one bad file must never end an import.
        raise UnreadableImage("damaged", f"{name} cannot be decoded ({type(problem).__name__})") from None


class Facts(Strict):
    """What is known about a decoded image besides its numbers; small, so that it can cross from a child process as JSON.

    Args:
        mirror: for an inverted image, the sum of the smallest and largest value that its bits can hold.
        sex, age_years: of the patient, see `people`; empty and None if unknown.
    """

    window: Window
    inverted: bool
    mirror: float
    geometry: Geometry
    patient_id: Annotated[str, Field(max_length=1000)]
    study_uid: Annotated[str, Field(max_length=1000)]
    series_uid: Annotated[str, Field(max_length=1000)]
    instance_number: int
    frame_step_mm: tuple[float, float, float]
    modality: str
    vendor: str
    instance_uid: Annotated[str, Field(max_length=1000)] = ""
    accession_number: Annotated[str, Field(max_length=1000)] = ""
    frame_of_reference: Annotated[str, Field(max_length=1000)] = ""
    sex: Sex = ""
    age_years: Annotated[int, Field(ge=0, le=OLDEST_YEARS)] | None = None
    dimensions: Dimensions = Field(default_factory=dict)
    thickness_mm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


def read_dicom(path: Path) -> DicomImage:
    """Read and decode one file in this process; errors as in `read_image`."""
    return guarded(path.name, lambda: read_image(path.read_bytes(), path.name))


def read_image(data: bytes, name: str) -> DicomImage:
    """Decode a file's bytes in this process.

    Args:
        name: for messages.

    Raises:
        UnreadableImage: not DICOM, no pixels, truncated, unsupported, too large or damaged; with the reason.
    """

    def read() -> DicomImage:
        if len(data) < 132:
            raise UnreadableImage("not-dicom", f"{name} is shorter than a DICOM header")
        facts, rescaled = decode(data, name)
        return picture(facts, rescaled, hashlib.sha256(data).hexdigest(), name)

    return guarded(name, read)


def decode(data: bytes, name: str) -> tuple[Facts, FloatArray]:
    """Return a file's facts and its numbers ``[frames, rows, columns]`` or ``[frames, 3, rows, columns]`` before any window.

    Damaged files make it raise arbitrary exceptions; call it within `guarded`.
    """
    # Files without a preamble are left to dcmread, which reports them.
    if data[128:132] == b"DICM" and _syntax(data) == DeflatedExplicitVRLittleEndian:
        raise UnreadableImage("unsupported", f"{name} is deflated; a small one can expand without bound")
    dataset = pydicom.dcmread(io.BytesIO(data))
    if not any(element in dataset for element in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableImage("no-pixels", f"{name} contains no pixels")
    declared = int(dataset.Rows) * int(dataset.Columns) * _frames(dataset) * int(dataset.get("SamplesPerPixel", 1))
    if not 0 < declared <= MAX_PIXELS:
        raise UnreadableImage("too-large", f"{name} declares {declared} pixels")
    if "PerFrameFunctionalGroupsSequence" in dataset and _frames(dataset) > 1:
        raise UnreadableImage("unsupported", f"{name} is an enhanced object with a position for each frame")
    rescaled, window = _rescale(dataset, _stacked(dataset, dataset.pixel_array))
    geometry = read_geometry(dataset)
    step = geometry.normal * slice_spacing_mm(dataset)
    if "MOSAIC" in (dataset.get("ImageType") or ()):
        rescaled, geometry, step = untile(dataset, rescaled, geometry)
    facts = Facts(
        window=window,
        inverted=str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1",
        mirror=mirror_of(dataset),
        geometry=geometry,
        patient_id=str(dataset.get("PatientID", "") or ""),
        study_uid=normalised(str(dataset.get("StudyInstanceUID", "") or "")),
        series_uid=normalised(str(dataset.get("SeriesInstanceUID", "") or "")),
        instance_number=int(dataset.get("InstanceNumber", 0) or 0),
        frame_step_mm=(float(step[0]), float(step[1]), float(step[2])),
        modality=modality_of(dataset.get("Modality")),
        vendor=vendor_of(dataset.get("Manufacturer")),
        instance_uid=str(dataset.get("SOPInstanceUID", "") or ""),
        accession_number=normalised(str(dataset.get("AccessionNumber", "") or "")),
        frame_of_reference=str(dataset.get("FrameOfReferenceUID", "") or ""),
        sex=sex_of(dataset.get("PatientSex")),
        age_years=age_years(dataset),
        dimensions=(varying := dimensions_of(dataset)),
        thickness_mm=max(float(varying.get("thickness", 0.0)), 0.0),
    )
    return facts, np.ascontiguousarray(rescaled, dtype=np.float32)


def picture(facts: Facts, rescaled: FloatArray, sha256: str, name: str) -> DicomImage:
    """Return the image of what was decoded; raises UnreadableImage for several colour images or values that are not finite."""
    values = show(rescaled, facts.window, inverted=facts.inverted) if rescaled.ndim == 3 else rescaled
    if values.ndim == 4 and values.shape[0] > 1:
        raise UnreadableImage("colour-frames", f"{name} contains several colour images")
    if not np.isfinite(values).all():
        raise UnreadableImage("not-finite", f"{name} contains NaN or infinite pixels")
    intensities = np.float32(facts.mirror) - rescaled if facts.inverted else rescaled
    return DicomImage(
        values=values,
        rescaled=rescaled,
        window=facts.window,
        inverted=facts.inverted,
        geometry=facts.geometry,
        patient_id=facts.patient_id,
        study_uid=facts.study_uid,
        series_uid=facts.series_uid,
        instance_number=facts.instance_number,
        frame_step_mm=facts.frame_step_mm,
        sha256=sha256,
        intensities=intensities,
        pixel_sha256=array_digest(rescaled),
        instance_uid=facts.instance_uid,
        accession_number=facts.accession_number,
        frame_of_reference=facts.frame_of_reference,
        dimensions=facts.dimensions,
        thickness_mm=facts.thickness_mm,
        info={
            "modality": modality_of(facts.modality),  # checked against the list again: the child is not trusted
            "vendor": vendor_of(facts.vendor),
            "channels": int(values.shape[1]) if values.ndim == 4 else 1,
            "rows": int(values.shape[-2]),
            "columns": int(values.shape[-1]),
            "frames": int(values.shape[0]),
            "spacing_mm": list(facts.geometry.spacing_mm),
            "intensity_range": [float(intensities.min()), float(intensities.max())],
            **({"sex": facts.sex} if facts.sex else {}),
            **({} if facts.age_years is None else {"age_years": facts.age_years}),
        },
    )


def _syntax(data: bytes) -> object:
    file = io.BytesIO(data)
    read_preamble(file, force=False)
    return _read_file_meta_info(file).get("TransferSyntaxUID")


def mirror_of(dataset: pydicom.Dataset) -> float:
    """Return the sum of the smallest and largest value that the bits can hold, rescaled: ``mirror - x`` inverts MONOCHROME1."""
    bits, signed = int(dataset.get("BitsStored", 16) or 16), int(dataset.get("PixelRepresentation", 0) or 0)
    lowest = -(2 ** (bits - 1)) if signed else 0
    slope, intercept = _first(dataset.get("RescaleSlope")), _first(dataset.get("RescaleIntercept"))
    ends: float = 2 * (intercept or 0.0) + (1.0 if slope is None else slope) * (2 * lowest + 2**bits - 1)
    return ends


def _frames(dataset: pydicom.Dataset) -> int:
    return int(dataset.get("NumberOfFrames", 1) or 1)


def _stacked(dataset: pydicom.Dataset, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return pixels as ``[frames, rows, columns]`` or ``[frames, rows, columns, samples]``."""
    return pixels if _frames(dataset) > 1 else pixels[None]


def _rescale(dataset: pydicom.Dataset, pixels: npt.NDArray[Any]) -> tuple[FloatArray, Window]:
    """Return values after the modality transform with the file's window; colour and VOI tables are 0 .. 1 already."""
    if str(dataset.get("PhotometricInterpretation", "")) == "PALETTE COLOR":
        pixels = np.stack([apply_color_lut(frame, dataset) for frame in pixels])
        return np.moveaxis(pixels, -1, 1).astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max), Window()
    if pixels.ndim == 4:  # pydicom has converted YBR to RGB
        full = np.float32(2 ** int(dataset.get("BitsStored", 8)) - 1)
        return np.moveaxis(pixels, -1, 1).astype(np.float32) / full, Window()
    stored = apply_modality_lut(pixels, dataset)
    if "VOILUTSequence" in dataset and len(dataset.VOILUTSequence):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        table = np.asarray(apply_voi(stored, dataset), dtype=np.float32) / np.float32(2**bits - 1)
        return table, Window("LINEAR_EXACT", 0.5, 1.0)
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    values = np.asarray(stored, dtype=np.float32)
    if centre is None or width is None or not 0 < width < np.inf or not np.isfinite(centre):
        return values, Window()
    return values, Window(str(dataset.get("VOILUTFunction", "LINEAR") or "LINEAR"), centre, width)


def show(values: FloatArray, window: Window, *, inverted: bool) -> FloatArray:
    """Return display values from 0 to 1, brighter is larger (PS3.3 C.11.2.1.2; `inverted` for MONOCHROME1)."""
    low, high = float(values.min()), float(values.max())
    shown = np.empty_like(values)
    for row, part in enumerate(values):  # in double precision, but never all of a volume at once
        shown[row] = _shown(part.astype(np.float64), window, low, high, inverted=inverted)
    return shown


def _shown(exact: Float64, window: Window, low: float, high: float, *, inverted: bool) -> Float64:
    centre, width = window.centre, window.width
    if window.function == "STRETCH":
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


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value[0]) if isinstance(value, MultiValue) else float(value)
