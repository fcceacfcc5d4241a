"""De-identification by allow-list: a new DICOM object from decoded pixels and a few checked values; everything else is dropped.

Identifiers are not searched for and removed, because unforeseen ones would stay: private elements, sequences, curves, overlays,
comments in compressed pixels, bytes behind the pixels, the preamble. What is kept is rebuilt, never copied:

    numbers      parsed and written again
    words        only those of a fixed vocabulary
    identifiers  HMAC under the site's secret: UIDs below 2.25, patients as the catalogue's pseudonyms
    dates        day of the study, shifted by a number of days that is the patient's own
    patients     sex as one letter, and age in whole years, 90 for all above 89; no date of birth
    pixels       decoded, and stored without compression

Declared as DICOM PS3.15 annex E, Basic Profile with "clean pixel data", "retain longitudinal temporal information with
modified dates" and "retain patient characteristics"; it keeps less than that profile allows.
"""

import datetime
import functools
import hashlib
import hmac
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from salus.client.data.dicom.burned_in import SECONDARY_CAPTURE, Blanked, Finder, blank
from salus.client.data.dicom.clips import write_intervals
from salus.client.data.dicom.dimensions import KINDS, keep_dimensions
from salus.client.data.dicom.image_writing import write_image
from salus.client.data.dicom.lookup import is_sequence, keywords_in
from salus.client.data.dicom.mammography import write_facts
from salus.client.data.dicom.matching import Others, others_of
from salus.client.data.dicom.meaning import meaning_of
from salus.client.data.dicom.numbers import safely, words_of
from salus.client.data.dicom.person import write_person
from salus.client.data.dicom.suv import write_suv
from salus.client.data.dicom.writing import as_file
from salus.client.data.identity import normalised
from salus.common.errors import ConfigError, UnreadableImage
from salus.common.vocabulary import MODALITIES, VENDORS, vendor_of

METHOD = "Salus allow-list 1"
METHOD_CODES = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113101", "Clean Pixel Data Option"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113108", "Retain Patient Characteristics Option"),
)
LARGEST_SHIFT_DAYS = 3650
# Of the acquisition; those that change what pixels mean or where they lie are written by `image_writing`.
NUMBERS = (
    "SliceThickness", "InstanceNumber", "SeriesNumber", "AcquisitionNumber", "TemporalPositionIdentifier", "EchoTime",
    "RepetitionTime", "FlipAngle", "KVP", "MagneticFieldStrength", "TriggerTime", "SliceLocation",
)  # fmt: skip
WORDS = {
    "Modality": MODALITIES,
    "RescaleType": {"HU", "US", "OD", "HU_MOD", "PCT", "Z_EFF", "ED", "EDW", "MGML"},
    "ImageType": KINDS,
    "PatientPosition": {"HFS", "HFP", "FFS", "FFP", "HFDR", "HFDL", "FFDR", "FFDL"},
    "Laterality": {"L", "R"},
    "ImageLaterality": {"L", "R", "B", "U"},
    "ViewPosition": {"AP", "PA", "LL", "RL", "CC", "MLO", "LATERAL"},
    "BodyPartExamined": {"CHEST", "HEAD", "BRAIN", "ABDOMEN", "PELVIS", "BREAST", "SPINE", "KNEE", "HEART", "HAND"},
}
KNOWN_CLASSES = "1.2.840.10008.5.1.4.1.1."  # storage classes of the standard; a private class could contain a name


@dataclass(frozen=True)
class PixelMask:
    """Rectangles that an operator declares to hold burned-in text on one device, and that are set to zero.

    Args:
        vendor, rows, columns: the images that it applies to, by vendor (of `VENDORS`) and size.
        boxes: (first row, first column, rows, columns) each.
    """

    vendor: str
    rows: int
    columns: int
    boxes: tuple[tuple[int, int, int, int], ...]


def parse_mask(text: str) -> PixelMask:
    """Parse a mask such as ``GE:480x640:0,0,40,640``: vendor, size and boxes (row, column, rows, columns), separated by colons.

    Raises:
        ConfigError: it has another form, or a box lies outside the image.
    """
    parts = re.fullmatch(r"([A-Z]+):(\d{1,5})x(\d{1,5})((?::\d{1,5},\d{1,5},\d{1,5},\d{1,5})+)", text)
    if parts is None or parts[1] not in (*VENDORS, "OTHER"):
        raise ConfigError(
            f"Expected a mask like GE:480x640:0,0,40,640 with a vendor of {', '.join(VENDORS)} or OTHER, got {text!r}.",
            remedy="Correct --mask.",
        )
    rows, columns = int(parts[2]), int(parts[3])
    boxes = []
    for box in parts[4][1:].split(":"):
        row, column, height, width = (int(number) for number in box.split(","))
        if not height or not width or row + height > rows or column + width > columns:
            raise ConfigError(f"The box {box} lies outside the image of {rows} x {columns}.", remedy="Correct --mask.")
        boxes.append((row, column, height, width))
    return PixelMask(parts[1], rows, columns, tuple(boxes))


@dataclass(frozen=True)
class Rules:
    """A site's secrets and masks.

    Args:
        pseudonym: from a kind (``patient``, ``study``) and the source's own key to the catalogue's pseudonym.
        secret: at least 16 bytes, for UIDs and date shifts.
        seal: hides the patient's own identifier so that only the site can open it.
        structures: labels of the segments that are kept; free text otherwise.
        include: kinds that are taken although they are no usual training pictures, see `kinds`.
        finder: finds burned-in text, see `burned_in`; None where no detector is installed.
    """

    pseudonym: Callable[[str, str], str]
    secret: bytes
    masks: tuple[PixelMask, ...] = ()
    seal: Callable[[str], str] = lambda text: ""  # not kept unless requested
    structures: tuple[str, ...] = ()
    include: frozenset[str] = frozenset()
    finder: Finder | None = None


@dataclass
class Clean:
    """The result of de-identification.

    Args:
        data: the new file.
        name: its content hash, hex; the only name it is stored under.
        patient, study: pseudonyms.
        sealed_patient: the file's own identifier, to be opened with the site's secret only.
        counts: for the import's report: elements kept and dropped, by rule.
        annotation: whether it is a segmentation and not an image.
        blanked: what was blanked because a detector looked for text; None where none did.
    """

    data: bytes
    name: str
    patient: str
    study: str
    vendor: str
    sealed_patient: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    annotation: bool = False
    others: Others = field(default_factory=Others)
    blanked: Blanked | None = None


def deidentify(
    dataset: Dataset, rules: Rules, write: Callable[[Dataset, Dataset, str, Rules], Blanked | None] | None = None
) -> Clean:
    """Return the de-identified object of one image.

    Args:
        write: writes what the image shows and returns what was blanked, as `describe` does for a classic image.

    Raises:
        UnreadableImage: without a patient or pixels, or one that `burned_in` refuses.
    """
    vendor = vendor_of(dataset.get("Manufacturer"))
    clean = Dataset()
    counts = {"kept": 0, "dropped": 0, "private": 0, "sequences": 0}
    blanked = (write or describe)(
        clean, dataset, vendor, rules
    )  # first: what cannot be read has the same reason at every door
    patient_id = str(dataset.get("PatientID", "") or "")
    if not normalised(patient_id):
        raise UnreadableImage("no-patient", "no PatientID, so its images cannot be grouped by patient")
    patient = rules.pseudonym("patient", patient_id)
    clean.Manufacturer = vendor
    write_person(clean, dataset)
    identify(clean, dataset, patient, rules)
    for element in dataset.values():  # not parsed: most of them are dropped
        known = element.tag in clean and not element.tag.is_private
        rule = "private" if element.tag.is_private else "sequences" if is_sequence(element) else "dropped"
        counts["kept" if known else rule] += 1
    data = as_file(clean)
    study = rules.pseudonym("study", str(dataset.get("StudyInstanceUID", "") or ""))
    sealed = rules.seal(patient_id)
    return Clean(
        data,
        hashlib.sha256(data).hexdigest(),
        patient,
        study,
        vendor,
        sealed,
        counts,
        others=others_of(dataset, rules.pseudonym, rules.secret, patient_id),
        blanked=blanked,
    )


def describe(clean: Dataset, dataset: Dataset, vendor: str, rules: Rules) -> Blanked | None:
    """Write what an image shows: its pixels, their meaning and place, and what tells it from others; errors as `deidentify`.

    Returns:
        What was blanked because a detector looked for text; None where none did.
    """
    blanked = _pixels(clean, dataset, vendor, rules)
    _numbers_and_words(clean, dataset)
    keep_dimensions(clean, dataset, rules.secret)
    write_intervals(clean, dataset)
    write_suv(clean, dataset)
    write_facts(clean, dataset)
    return blanked


def _pixels(clean: Dataset, dataset: Dataset, vendor: str, rules: Rules) -> Blanked | None:
    """Write what the image means, decoded and without what may be a name."""
    meaning = meaning_of(dataset)
    measured = meaning.measured
    rows, columns = measured.pixels.shape[1:3]
    mask = next((m for m in rules.masks if (m.vendor, m.rows, m.columns) == (vendor, rows, columns)), None)
    pixels, blanked = blank(dataset, measured.pixels, None if mask is None else mask.boxes, rules.finder)
    write_image(clean, dataset, replace(meaning, measured=replace(measured, pixels=pixels)))
    clean.BurnedInAnnotation = "NO"
    return blanked


def _numbers_and_words(clean: Dataset, dataset: Dataset) -> None:
    for keyword in keywords_in(dataset, NUMBERS):
        values = finite(safely(partial(dataset.get, keyword), None))
        if values:
            setattr(clean, keyword, values if len(values) > 1 else values[0])
    for keyword in keywords_in(dataset, tuple(WORDS)):
        kept = [word for word in words_of(dataset, keyword) if word in WORDS[keyword]]
        if kept:
            setattr(clean, keyword, kept if len(kept) > 1 else kept[0])


def finite(value: Any) -> list[float | int]:
    """Return an element's numbers, parsed and rounded so that digits cannot carry text, or nothing."""
    if value is None or value == "":
        return []
    parts = list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    numbers: list[float | int] = []
    for part in parts[:6]:
        try:
            number = float(part)
        except (TypeError, ValueError):
            return []
        if not math.isfinite(number) or abs(number) > 1e7:
            return []
        numbers.append(int(number) if number == int(number) else float(f"{number:.9g}"))
    return numbers


def identify(clean: Dataset, dataset: Dataset, patient: str, rules: Rules) -> None:
    """Write the new identifiers of an object, its shifted date and the declaration of how it was de-identified."""
    clean.PatientID = patient
    clean.PatientName = patient
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        value = str(dataset.get(keyword, "") or "")
        if value:
            setattr(clean, keyword, uid(rules.secret, value))
    kind = str(dataset.get("SOPClassUID", ""))
    clean.SOPClassUID = standard_class(kind)
    if "SOPInstanceUID" not in clean:
        clean.SOPInstanceUID = uid(rules.secret, patient)
    shifted = shifted_date(str(dataset.get("StudyDate", "") or ""), patient, rules.secret)
    if shifted:
        clean.StudyDate = shifted
        clean.LongitudinalTemporalInformationModified = "MODIFIED"
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = METHOD
    clean.DeidentificationMethodCodeSequence = _method_codes()


@functools.cache
def _method_codes() -> Sequence:
    """Return the declaration of the method, built once: it is the same in every object."""
    codes = []
    for value, meaning in METHOD_CODES:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
        codes.append(code)
    return Sequence(codes)


def standard_class(value: str) -> str:
    """Return a storage class of the standard; secondary capture for any other."""
    known = value.startswith(KNOWN_CLASSES) and UID(value).name != value  # the standard's own have names
    return value if known else SECONDARY_CAPTURE


def uid(secret: bytes, value: str) -> str:
    """Return the new UID of an old one: 2.25 and 128 bits of HMAC-SHA256."""
    digest = hmac.new(secret, b"uid\0" + value.encode("utf-8", "replace"), hashlib.sha256).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def shifted_date(value: str, patient: str, secret: bytes) -> str:
    """Return a date moved back by 1 to 3650 days, the same for all of a patient's, or an empty string if it is not a date."""
    try:
        day = datetime.datetime.strptime(value, "%Y%m%d").date()
    except ValueError:
        return ""
    digest = hmac.new(secret, b"days\0" + patient.encode(), hashlib.sha256).digest()
    days = 1 + int.from_bytes(digest[:8], "big") % LARGEST_SHIFT_DAYS
    moved = day - datetime.timedelta(days=days) if day.toordinal() > days + 1 else day
    return moved.strftime("%Y%m%d") if moved != day else ""
