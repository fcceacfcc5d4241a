"""What a derived DICOM object repeats of its source images: identity, study, patient and plane; never their pixels.

The header is read in the sandboxed child and crosses as this strict model, so that nothing else of a file gets into an object
that Salus writes.
"""

import contextlib
import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import numpy as np
import pydicom
from pydantic import Field
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from salus.client.data.dicom.geometry import read_geometry
from salus.common.errors import UnreadableImage
from salus.common.examples import plane_of
from salus.common.strict import Strict

Uid = Annotated[str, Field(pattern=r"^[0-9][0-9.]{0,63}$")]
Text = Annotated[str, Field(max_length=64)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
IDENTITY = ("PatientID", "IssuerOfPatientID")  # together they name a patient; neither may be changed by a letter
PATIENT = (*IDENTITY, "PatientName", "PatientBirthDate", "PatientSex")
PERSON = (*IDENTITY, "PatientBirthDate")  # a name may be spelled in several ways
STUDY = ("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName")
DATES = ("PatientBirthDate", "StudyDate")
SHORT = ("AccessionNumber", "StudyID")
# Values that a strict writer would refuse; a source with another value loses that value, not its segmentation.
FORMS = {
    "PatientBirthDate": r"\d{8}",
    "StudyDate": r"\d{8}",
    "StudyTime": r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?",
    "PatientSex": r"[MFO]",
}


class Instance(Strict):
    """One source image.

    Args:
        texts: elements of the patient and the study, by keyword.
        exact: whether the patient's identifier and its issuer are here as they are in the file.
        frames: images in the file.
        spacing_mm: between rows, then between columns.
        orientation: unit vectors along a row and along a column, LPS; empty for a projection image.
        position: centre of the first pixel in millimetres, LPS; empty for a projection image.
    """

    sop_class_uid: Uid
    sop_instance_uid: Uid
    study_uid: Uid
    series_uid: Uid
    frame_of_reference_uid: Uid | None = None
    modality: Annotated[str, Field(pattern=r"^[A-Z]{0,16}$")] = ""
    texts: dict[Annotated[str, Field(max_length=40)], Text] = Field(default_factory=dict)
    exact: bool = True
    rows: Annotated[int, Field(ge=1, le=65535)]
    columns: Annotated[int, Field(ge=1, le=65535)]
    frames: Annotated[int, Field(ge=1, le=2**20)] = 1
    spacing_mm: tuple[Positive, Positive]
    thickness_mm: Positive | None = None
    orientation: Annotated[tuple[Finite, ...], Field(max_length=6)] = ()
    position: Annotated[tuple[Finite, ...], Field(max_length=3)] = ()

    @property
    def placed(self) -> bool:
        """Whether the image's place in the patient is known."""
        return len(self.orientation) == 6 and len(self.position) == 3

    @property
    def plane(self) -> str:
        """``axial``, ``coronal`` or ``sagittal``, whichever is nearest; empty for a projection image."""
        if not self.placed:
            return ""
        return plane_of(np.cross(self.orientation[:3], self.orientation[3:]))


def instance_of(dataset: Dataset) -> Instance:
    """Return what a derived object needs of an image's header.

    Raises:
        UnreadableImage: no valid identifiers, or values that do not describe a plane.
    """
    geometry = read_geometry(dataset)
    uids = {
        name: str(dataset.get(keyword, "") or "")
        for name, keyword in (
            ("sop_class_uid", "SOPClassUID"),
            ("sop_instance_uid", "SOPInstanceUID"),
            ("study_uid", "StudyInstanceUID"),
            ("series_uid", "SeriesInstanceUID"),
        )
    }
    if not all(is_uid(uid) for uid in uids.values()):
        raise UnreadableImage("no-identifiers", "an image without valid identifiers cannot be referred to")
    reference = str(dataset.get("FrameOfReferenceUID", "") or "")
    thickness = dataset.get("SliceThickness")
    modality = str(dataset.get("Modality", "") or "")
    oriented = bool(dataset.get("ImageOrientationPatient")) and geometry.position is not None
    return Instance(
        **uids,
        frame_of_reference_uid=reference if is_uid(reference) else None,
        modality=modality if re.fullmatch(r"[A-Z]{1,16}", modality) else "",
        texts={keyword: text for keyword in (*PATIENT, *STUDY) if (text := _text(dataset, keyword))},
        exact=all(_is_exact(dataset, keyword) for keyword in IDENTITY),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        frames=int(dataset.get("NumberOfFrames", 1) or 1),
        spacing_mm=geometry.spacing_mm,
        thickness_mm=float(thickness) if thickness and 0 < float(thickness) < float("inf") else None,
        orientation=(*geometry.row_direction, *geometry.column_direction) if oriented else (),
        position=geometry.position if oriented and geometry.position is not None else (),
    )


def header_of(instance: Instance) -> Dataset:
    """Return a header with these facts, as highdicom wants its source images; text is UTF-8."""
    header = pydicom.Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.SOPClassUID, header.SOPInstanceUID = instance.sop_class_uid, instance.sop_instance_uid
    header.StudyInstanceUID, header.SeriesInstanceUID = instance.study_uid, instance.series_uid
    header.Modality = instance.modality or "OT"
    for keyword in (*PATIENT, *STUDY):
        setattr(header, keyword, instance.texts.get(keyword, ""))
    header.Rows, header.Columns = instance.rows, instance.columns
    header.PixelSpacing = list(instance.spacing_mm)
    header.SliceThickness = instance.thickness_mm or 1.0  # read by highdicom in any case; what it writes is given apart
    if instance.placed and instance.frame_of_reference_uid is not None:
        header.FrameOfReferenceUID = instance.frame_of_reference_uid
        header.ImageOrientationPatient = list(instance.orientation)
        header.ImagePositionPatient = list(instance.position)
    return header


def check_one_series(instances: Sequence[Instance]) -> None:
    """Check that instances are of one series of one patient; raises UnreadableImage if not."""
    if len({(instance.study_uid, instance.series_uid) for instance in instances}) != 1:
        raise UnreadableImage("mixed-series", "the slices are of different series")
    if len({tuple(instance.texts.get(keyword, "") for keyword in PERSON) for instance in instances}) != 1:
        raise UnreadableImage("mixed-patients", "the slices of the series are of different patients")


def sources_of(instances: Sequence[Instance]) -> str:
    """Return what names source images in the identifiers of what is derived from them.

    Broken devices give the same UIDs to images of different patients, and a patient's identifier may be corrected later.
    """
    first = instances[0]
    patient = [first.texts.get(keyword, "") for keyword in IDENTITY]
    return json.dumps([*patient, first.study_uid, first.series_uid, *(one.sop_instance_uid for one in instances)])


def is_uid(text: str) -> bool:
    """Return whether a text can be a UID."""
    return re.fullmatch(r"[0-9][0-9.]{0,63}", text) is not None


def _is_exact(dataset: Dataset, keyword: str) -> bool:
    """Return whether an identifier is one value that `_text` returns unchanged, but for padding."""
    value = dataset.get(keyword, "") or ""
    text = str(value)
    return not isinstance(value, MultiValue) and "\ufffd" not in text and _text(dataset, keyword) == text


def _text(dataset: Dataset, keyword: str) -> str:
    """Return an element's text within its length (PS3.5, 6.2), without control characters; empty if it is malformed."""
    value = dataset.get(keyword, "") or ""
    first = value[0] if isinstance(value, MultiValue) and value else value
    text = "".join(c for c in str(first) if c.isprintable())[: 16 if keyword in SHORT else 64]
    form = FORMS.get(keyword)
    if form is None:
        return text
    return text if re.fullmatch(form, text) and (keyword not in DATES or _is_date(text)) else ""


def _is_date(text: str) -> bool:
    """Return whether eight digits are a day of the calendar; ``00000000`` is frequent."""
    with contextlib.suppress(ValueError):
        return bool(datetime.strptime(text, "%Y%m%d"))
    return False
