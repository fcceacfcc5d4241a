"""One DICOM file to numbers: modality LUT and rescale, VOI window, photometric interpretation, geometry.

Follows DICOM PS3.3: C.11.1 (modality), C.11.2.1.2 (window functions), C.7.6.3.1.2 (photometric interpretation), C.7.6.2
(image plane). Truncated files read silently in pydicom and fail only at the pixels, so a file counts as readable only
after its pixels were decoded.
"""

import dataclasses
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.uid import DeflatedExplicitVRLittleEndian

from salus.client.data.records import FloatArray, array_digest
from salus.client.data.vocabulary import modality_of, vendor_of
from salus.common.errors import UnreadableImage

MAX_FILE_BYTES = 2**31
MAX_PIXELS = 2**28  # rows x columns x frames x samples, checked before decoding; a CT of 1000 slices of 512 x 512 fits
ANGLE_TOLERANCE = 0.01

Float64 = npt.NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Geometry:
    """Where the pixels are in the patient, in millimetres, LPS (x to the left, y to the back, z to the head).

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
        """Unit vector in which slices follow each other."""
        return np.cross(self.row_direction, self.column_direction)


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


def guarded(name: str, action: Callable[[], T]) -> T:
    """Run `action` and turn everything that damaged DICOM provokes into UnreadableImage with a reason.

    The library's own text is dropped: it may quote a patient's values.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns about values it mends; the mended value is what counts
            return action()
    except UnreadableImage:
        raise
    except FileNotFoundError:
        raise UnreadableImage("missing", f"{name} is not there any more") from None
    except InvalidDicomError:
        raise UnreadableImage("not-dicom", f"{name} is not a DICOM file") from None
    except RecursionError:
        raise UnreadableImage("nested-too-deep", f"{name} nests sequences too deeply") from None
    except NotImplementedError:
        raise UnreadableImage("unsupported", f"{name} uses an encoding that is not supported") from None
    except MemoryError:
        raise UnreadableImage("too-large", f"{name} needs more memory than there is") from None
    except Exception as problem:
        # Found by trial: AttributeError, ValueError, RuntimeError, OSError, EOFError, struct.error, BytesLengthException and
        # whatever the decoders raise. The list has no end, and one bad file must never end an import.
        raise UnreadableImage("damaged", f"{name} cannot be decoded ({type(problem).__name__})") from None


def read_dicom(path: Path) -> DicomImage:
    """Read and decode one file.

    Raises:
        UnreadableImage: not DICOM, no pixels, truncated, unsupported, too large or damaged; with the reason.
    """
    return guarded(path.name, lambda: _read(path))


def _read(path: Path) -> DicomImage:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UnreadableImage("too-large", f"{path.name} is larger than {MAX_FILE_BYTES} bytes")
    if path.stat().st_size and read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise UnreadableImage("unsupported", f"{path.name} is deflated; a small one can expand without bound")
    dataset = pydicom.dcmread(path)
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableImage("no-pixels", f"{path.name} holds no pixels")
    declared = int(dataset.Rows) * int(dataset.Columns) * _frames(dataset) * int(dataset.get("SamplesPerPixel", 1))
    if not 0 < declared <= MAX_PIXELS:
        raise UnreadableImage("too-large", f"{path.name} declares {declared} pixels")
    if "PerFrameFunctionalGroupsSequence" in dataset and _frames(dataset) > 1:
        raise UnreadableImage("unsupported", f"{path.name} is an enhanced object that places each frame on its own")
    rescaled, window = _rescale(dataset, _stacked(dataset, dataset.pixel_array))
    inverted = str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1"
    values = show(rescaled, window, inverted=inverted) if rescaled.ndim == 3 else rescaled
    if values.ndim == 4 and values.shape[0] > 1:
        raise UnreadableImage("colour-frames", f"{path.name} holds several colour pictures")
    if not np.isfinite(values).all():
        raise UnreadableImage("not-finite", f"{path.name} holds NaN or infinite pixels")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    geometry = read_geometry(dataset)
    step = geometry.normal * _slice_spacing_mm(dataset)
    if "MOSAIC" in (dataset.get("ImageType") or ()):
        rescaled, geometry, step = untile(dataset, rescaled, geometry)
        values = show(rescaled, window, inverted=inverted)
    intensities = reflected(dataset, rescaled) if inverted else rescaled
    return DicomImage(
        values=values,
        rescaled=rescaled,
        window=window,
        inverted=inverted,
        geometry=geometry,
        patient_id=str(dataset.get("PatientID", "") or ""),
        study_uid=str(dataset.get("StudyInstanceUID", "") or ""),
        series_uid=str(dataset.get("SeriesInstanceUID", "") or ""),
        instance_number=int(dataset.get("InstanceNumber", 0) or 0),
        frame_step_mm=(float(step[0]), float(step[1]), float(step[2])),
        sha256=digest,
        intensities=intensities,
        pixel_sha256=array_digest(rescaled),
        info={
            "modality": modality_of(dataset.get("Modality")),
            "vendor": vendor_of(dataset.get("Manufacturer")),
            "rows": int(values.shape[-2]),
            "columns": int(values.shape[-1]),
            "frames": int(values.shape[0]),
            "spacing_mm": list(geometry.spacing_mm),
            "intensity_range": [float(intensities.min()), float(intensities.max())],
        },
    )


def reflected(dataset: pydicom.Dataset, rescaled: FloatArray) -> FloatArray:
    """Return the values of a MONOCHROME1 picture turned over about the middle of what its bits can hold."""
    bits, signed = int(dataset.get("BitsStored", 16)), int(dataset.get("PixelRepresentation", 0) or 0)
    lowest = -(2 ** (bits - 1)) if signed else 0
    slope, intercept = _first(dataset.get("RescaleSlope")), _first(dataset.get("RescaleIntercept"))
    ends = 2 * (intercept or 0.0) + (1.0 if slope is None else slope) * (2 * lowest + 2**bits - 1)
    return np.float32(ends) - rescaled


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
    centre, width = window.centre, window.width
    exact = values.astype(np.float64)
    if window.function == "STRETCH":
        low, high = float(exact.min()), float(exact.max())
        unit = (exact - low) / (high - low) if high > low else np.zeros_like(exact)
    elif window.function == "SIGMOID":
        unit = 1.0 / (1.0 + np.exp(np.clip(-4.0 * (exact - centre) / width, -700, 700)))
    elif window.function == "LINEAR_EXACT":
        unit = np.clip((exact - centre) / width + 0.5, 0.0, 1.0)
    elif width <= 1:  # C.11.2.1.2.1: a threshold
        unit = (exact > centre - 0.5).astype(np.float64)
    else:
        unit = np.clip((exact - (centre - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)
    return (1.0 - unit if inverted else unit).astype(np.float32)


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value[0]) if isinstance(value, MultiValue) else float(value)


def read_geometry(dataset: pydicom.Dataset) -> Geometry:
    """Return the image plane; a projection image gets spacing from its detector and the standard orientation.

    Raises:
        UnreadableImage: numbers that are no plane: not finite, no positive spacing, or axes that are not at right angles.
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
        raise UnreadableImage("bad-geometry", "spacing, orientation or position are not those of a picture")
    return Geometry(
        (rows_mm, columns_mm), (cosines[0], cosines[1], cosines[2]), (cosines[3], cosines[4], cosines[5]), where
    )


def untile(dataset: pydicom.Dataset, values: FloatArray, geometry: Geometry) -> tuple[FloatArray, Geometry, Float64]:
    """Take a Siemens mosaic apart: one picture that holds all slices as tiles becomes frames with their true place.

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


def _slice_spacing_mm(dataset: pydicom.Dataset) -> float:
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        value = dataset.get(name)
        if value and 0 < abs(float(value)) < np.inf:
            return abs(float(value))
    return 1.0
