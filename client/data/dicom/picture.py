"""From one DICOM file to numbers: what `meaning` understands, as arrays in the modality's units and for display.

Truncated files read silently in pydicom and fail only at the pixels, so a file counts as readable only after its pixels were
decoded.
"""

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import pydicom
from pydantic import Field
from pydicom.errors import InvalidDicomError

from salus.client.data.dicom.clips import intervals_ms
from salus.client.data.dicom.dimensions import Dimensions, dimensions_of
from salus.client.data.dicom.display import Window, show
from salus.client.data.dicom.frames import frame_digest, frames_of, has_planes
from salus.client.data.dicom.geometry import Geometry
from salus.client.data.dicom.intensities import Bools, Scale, filled, joined
from salus.client.data.dicom.mammography import facts_of
from salus.client.data.dicom.meaning import meaning_of
from salus.client.data.dicom.numbers import whole_of
from salus.client.data.dicom.opening import open_dataset
from salus.client.data.dicom.person import age_years
from salus.client.data.dicom.suv import suv_or_why
from salus.client.data.identity import normalised, same_issuer
from salus.client.data.records import ISSUER, FloatArray, array_digest
from salus.common.errors import UnreadableImage
from salus.common.people import OLDEST_YEARS, Sex, sex_of
from salus.common.strict import Strict
from salus.common.vocabulary import modality_of, vendor_of

T = TypeVar("T")


@dataclass(frozen=True)
class DicomImage:
    """A decoded file.

    Args:
        values: ``[frames, rows, columns]`` or ``[frames, 3, rows, columns]``, 0 .. 1, float32.
        rescaled: the same before its window, for volumes, whose slices must share one.
        frame_step_mm: from one frame to the next in LPS; along the normal unless the file says otherwise.
        intensities: like `values`, in the modality's own units before any window; quantities such as Hounsfield units as they
            are, of others brighter is larger.
        pixel_sha256: hash of the decoded pixels, the same for two files that differ in their headers only.
        dimensions: what may vary between images of one place, see `dimensions`.
        thickness_mm: of one slice, 0 if the file does not say.
        suv_factor: by which PET values are multiplied to get SUV by body weight; None where it is not known, for the reason
            `no_suv`.
        intervals_ms: of a clip, from each frame to the next; empty if it does not say.
        padding: which of the values are padding and no measurement, shaped like them; None if none is.
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
    intervals_ms: tuple[float, ...] = ()
    suv_factor: float | None = None
    no_suv: str = ""
    scale: Scale = "none"
    padding: Bools | None = None

    @property
    def is_clip(self) -> bool:
        """Whether its frames follow each other in time, and not in space."""
        several, colour = len(self.values) > 1, self.values.ndim == 4
        return several and (colour or bool(self.intervals_ms) or self.geometry.position is None)


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
        quantity: whether values are quantities, such as Hounsfield units, which are not mirrored.
        pixel_sha256: of the values with their padding as it is stored; empty for that of the values as given.
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
    issuer: Annotated[str, Field(max_length=100)] = ""
    age_years: Annotated[int, Field(ge=0, le=OLDEST_YEARS)] | None = None
    dimensions: Dimensions = Field(default_factory=dict)
    thickness_mm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    pixel_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    quantity: bool = False
    scale: Scale = "none"
    intervals_ms: Annotated[
        tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], Field(max_length=2**16)
    ] = ()
    suv_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    no_suv: Annotated[str, Field(max_length=1000)] = ""
    breast: dict[Literal["view", "laterality", "implant"], Annotated[str, Field(pattern=r"^[A-Za-z]{1,8}$")]] = Field(
        default_factory=dict
    )


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

    images = read_images(data, name)
    if len(images) > 1:
        raise UnreadableImage("several-frames", f"{name} is an enhanced object of several images; use --volumes")
    return images[0]


def read_images(data: bytes, name: str) -> list[DicomImage]:
    """Decode the images of a file: one for each frame of an enhanced object, see `frames`, and one for any other.

    Errors as in `read_image`.
    """

    def read() -> list[DicomImage]:
        digest = hashlib.sha256(data).hexdigest()
        dataset = open_dataset(data)
        if not has_planes(dataset):
            return [picture(*decode(dataset), digest, name)]
        several = whole_of(dataset, "NumberOfFrames", 1) > 1
        images = [
            picture(*decode(frame), frame_digest(digest, number) if several else digest, name)
            for number, frame in enumerate(frames_of(dataset))
        ]
        return _as_clip(images, intervals_ms(dataset), digest)

    return guarded(name, read)


def _as_clip(images: list[DicomImage], steps_ms: tuple[float, ...], digest: str) -> list[DicomImage]:
    """Return frames that have no place, and are alike otherwise, as one clip; others as they are."""
    first = images[0]
    alike = {(image.window, image.inverted, image.values.shape, image.geometry) for image in images}
    if len(images) == 1 or first.geometry.position is not None or len(alike) > 1:
        return images
    rescaled = np.concatenate([image.rescaled for image in images])
    measured = np.concatenate([image.intensities for image in images])
    return [
        replace(
            first,
            values=show(rescaled, first.window, inverted=first.inverted) if rescaled.ndim == 3 else rescaled,
            rescaled=rescaled,
            intensities=measured,
            sha256=digest,
            pixel_sha256=array_digest(rescaled),
            padding=joined([(image.values.shape, image.padding) for image in images]),
            intervals_ms=steps_ms,
            info={
                **first.info,
                "frames": len(images),
                "intensity_range": [float(measured.min()), float(measured.max())],
                **({"frame_ms": float(np.median(steps_ms))} if steps_ms else {}),
            },
        )
    ]


def decode(dataset: pydicom.Dataset) -> tuple[Facts, FloatArray, Bools | None]:
    """Return an image's facts, its numbers before any window, and which of these are padding (None if none is).

    The numbers are ``[frames, rows, columns]`` or ``[frames, 3, rows, columns]``; padding has the darkest measured one.

    Damaged files make it raise arbitrary exceptions; call it within `guarded`.
    """
    meaning = meaning_of(dataset)
    raw, geometry, step = meaning.measured.values(), meaning.geometry, meaning.step
    padding = meaning.measured.padded()
    rescaled = filled(raw, padding, inverted=meaning.inverted and not meaning.quantity)
    facts = Facts(
        window=meaning.window,
        inverted=meaning.inverted,
        mirror=sum(meaning.measured.ends),
        quantity=meaning.quantity,
        scale=meaning.measured.scale,
        geometry=geometry,
        patient_id=str(dataset.get("PatientID", "") or ""),
        study_uid=normalised(str(dataset.get("StudyInstanceUID", "") or "")),
        series_uid=normalised(str(dataset.get("SeriesInstanceUID", "") or "")),
        instance_number=instance_number_of(dataset),
        frame_step_mm=(float(step[0]), float(step[1]), float(step[2])),
        modality=modality_of(dataset.get("Modality")),
        vendor=vendor_of(dataset.get("Manufacturer")),
        instance_uid=str(dataset.get("SOPInstanceUID", "") or ""),
        accession_number=normalised(str(dataset.get("AccessionNumber", "") or "")),
        frame_of_reference=str(dataset.get("FrameOfReferenceUID", "") or ""),
        sex=sex_of(dataset.get("PatientSex")),
        issuer=same_issuer(str(dataset.get("IssuerOfPatientID", "") or ""))[:100],
        age_years=age_years(dataset),
        dimensions=(varying := dimensions_of(dataset)),
        thickness_mm=max(float(varying.get("thickness", 0.0)), 0.0),
        intervals_ms=intervals_ms(dataset),
        suv_factor=(suv := suv_or_why(dataset))[0],
        no_suv=suv[1],
        breast=facts_of(dataset),  # type: ignore[arg-type]  # checked by the model
        pixel_sha256=array_digest(np.ascontiguousarray(raw)),
    )
    return facts, np.ascontiguousarray(rescaled, dtype=np.float32), padding


def picture(facts: Facts, rescaled: FloatArray, padding: Bools | None, sha256: str, name: str) -> DicomImage:
    """Return the image of what was decoded; raises UnreadableImage for values that are not finite."""
    values = show(rescaled, facts.window, inverted=facts.inverted) if rescaled.ndim == 3 else rescaled
    if not np.isfinite(values).all():
        raise UnreadableImage("not-finite", f"{name} contains NaN or infinite pixels")
    intensities = rescaled if facts.quantity or not facts.inverted else np.float32(facts.mirror) - rescaled
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
        pixel_sha256=facts.pixel_sha256 or array_digest(rescaled),
        instance_uid=facts.instance_uid,
        accession_number=facts.accession_number,
        frame_of_reference=facts.frame_of_reference,
        dimensions=facts.dimensions,
        thickness_mm=facts.thickness_mm,
        intervals_ms=facts.intervals_ms,
        suv_factor=facts.suv_factor,
        no_suv=facts.no_suv,
        scale=facts.scale,
        padding=padding,
        info={
            "modality": modality_of(facts.modality),  # checked against the list again: the child is not trusted
            "vendor": vendor_of(facts.vendor),
            "channels": int(values.shape[1]) if values.ndim == 4 else 1,
            "rows": int(values.shape[-2]),
            "columns": int(values.shape[-1]),
            "frames": int(values.shape[0]),
            "spacing_mm": list(facts.geometry.spacing_mm),
            "intensity_range": [float(intensities.min()), float(intensities.max())],
            **({"frame_ms": float(np.median(facts.intervals_ms))} if facts.intervals_ms else {}),
            **{name: word for name, word in facts.breast.items()},
            **({"sex": facts.sex} if facts.sex else {}),
            **({ISSUER: facts.issuer} if facts.issuer else {}),
            **({} if facts.age_years is None else {"age_years": facts.age_years}),
        },
    )


def instance_number_of(dataset: pydicom.Dataset) -> int:
    """Return the instance number, or 0 for one that is absent or cannot be read: it only orders what nothing else orders."""
    try:
        return whole_of(dataset, "InstanceNumber", 0, least=-(2**31))
    except UnreadableImage:
        return 0
