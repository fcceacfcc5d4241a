"""What kind of object a DICOM file is, and whether it is a training picture: decided by SOP class and image type.

That a file has pixels does not make it a picture to learn from: a segmentation or a dose grid has pixels too, and would give away
the answer. Both doors, `dataset add` and `dataset import`, decide with `check_kind`. `docs/data.md` shows `CLASSES`.
"""

import io
from collections.abc import Collection
from typing import NamedTuple

import pydicom
from pydicom.dataset import Dataset

from salus.client.data.dicom.numbers import number_of, safely
from salus.client.data.dicom.opening import is_bare, undeflated
from salus.common.errors import ConfigError, UnreadableImage

STORAGE = "1.2.840.10008.5.1.4.1.1."
PICTURE, LOCALIZER, SECONDARY, SCREEN = "picture", "localizer", "secondary-capture", "screen-capture"
ANNOTATION = "annotation"
INCLUDABLE = (LOCALIZER, SECONDARY, SCREEN)
REASONS = {
    LOCALIZER: "a localizer, by which a scan is planned",
    SECONDARY: "a secondary capture: made by software or a scanner of films, not by an imaging device",
    SCREEN: "a screen capture or a page of a report, not an image of the patient",
    ANNOTATION: "a segmentation or structure set, not an image",
    "dose": "a radiotherapy dose grid, not an image",
    "plan": "a radiotherapy plan or record, not an image",
    "parametric-map": "a parametric map, which is computed from images",
    "presentation-state": "a presentation state, which says how other images are shown",
    "registration": "a registration or fiducials of other images",
    "report": "a structured report or a selection of objects",
    "document": "an encapsulated document",
    "waveform": "a waveform, such as an ECG",
    "measurements": "measurements or a model without an image",
    "raw-data": "raw data of a device, whose format is private",
    "whole-slide": "a whole-slide image",
}
SCREEN_WORDS = {
    "SCREEN SAVE", "SCREENSAVE", "SCREENSHOT", "SCREEN SHOT", "SCREEN CAPTURE", "SCREEN", "DOSE_INFO", "DOSE INFO",
    "DOSE REPORT", "DOSEREPORT", "PROT", "PROTOCOL", "CT_SOM5 PROT", "CT_SOM7 PROT",
}  # fmt: skip
LOCALIZER_WORDS = {"LOCALIZER", "LOCALISER", "SCOUT", "TOPOGRAM", "SCANOGRAM", "SCANOSCOPE"}
# For files of private classes and of none.
MODALITIES = {
    "SEG": ANNOTATION, "RTSTRUCT": ANNOTATION, "RTDOSE": "dose", "RTPLAN": "plan", "RTRECORD": "plan", "SR": "report",
    "KO": "report", "PR": "presentation-state", "DOC": "document", "REG": "registration", "FID": "registration",
    "ECG": "waveform", "HD": "waveform", "EPS": "waveform", "M3D": "document", "PLAN": "plan", "SMR": "measurements",
}  # fmt: skip


class Class(NamedTuple):
    """Storage classes of one kind.

    Args:
        kind: `PICTURE`, or the reason for which the file is not used.
        uids: below `STORAGE`; one that ends with a dot stands for all below it.
        done: what is done, in words.
    """

    kind: str
    uids: tuple[str, ...]
    done: str


CLASSES = (
    Class(PICTURE, ("1", "1.1", "1.1.1", "1.3", "1.3.1"), "radiographs: CR, DX, intra-oral; pictures"),
    Class(PICTURE, ("1.2", "1.2.1"), "mammograms: pictures, with view, laterality and implant as facts"),
    Class(PICTURE, ("13.1.3", "13.1.4", "13.1.5", "13.1.1", "13.1.2"), "tomosynthesis and 3-D angiography: volumes"),
    Class(PICTURE, ("2", "4", "128", "20", "5"), "CT, MR, PET and nuclear medicine: pictures or volumes"),
    Class(PICTURE, ("2.1", "2.2", "4.1", "4.3", "4.4", "128.1", "130"), "enhanced objects: a plane of each frame; volumes"),
    Class(PICTURE, ("3", "3.1", "6", "6.1", "6.2", "6.3"), "ultrasound: pictures, and clips with their times"),
    Class(PICTURE, ("12.1", "12.1.1", "12.2", "12.2.1", "12.3", "481.1", "481.23"), "X-ray runs: pictures and clips"),
    Class(PICTURE, ("77.1", "77.2", "77.1.1", "77.1.2", "77.1.3", "77.1.4", "77.1.5.1", "77.1.5.2", "77.1.7", "77.1.8"),
          "photographs of eye, skin and endoscopy: pictures"),
    Class(PICTURE, ("77.1.1.1", "77.1.2.1", "77.1.4.1"), "videos: clips where the frames are stored one by one"),
    Class(PICTURE, ("77.1.5.4", "77.1.5.5", "77.1.5.6", "77.1.5.8", "14.1", "14.2"), "OCT and wide-field eye images"),
    Class(SECONDARY, ("7", "7.1", "7.2", "7.3", "7.4"), "not used unless asked for with --include secondary-capture"),
    Class(ANNOTATION, ("66.4", "66.7", "66.8", "66.5", "481.3"), "masks of the images that they refer to"),
    Class("dose", ("481.2",), "not used"),
    Class("plan", ("481.4", "481.5", "481.6", "481.7", "481.8", "481.9", "481.10", "481.11", "481.12", "481.13", "481.14",
                   "481.15", "481.16", "481.17", "481.18", "481.19", "481.20", "481.21", "481.22", "481.24", "481.25"),
          "not used"),
    Class("parametric-map", ("30",), "not used"),
    Class("presentation-state", ("11", "11."), "not used"),
    Class("waveform", ("9.",), "not used"),
    Class("registration", ("66.1", "66.2", "66.3", "66.6", "77.1.5.3"), "not used"),
    Class("report", ("88.",), "measurements are read by `salus dataset labels`"),
    Class("report", ("40",), "not used"),
    Class("document", ("104.",), "not used"),
    Class("measurements", ("67", "68.", "78.", "79.1", "80.1", "81.1", "82.1", "77.1.5.7", "90.1", "91.1", "200.", "201.",
                           "131", "129", "4.2", "8", "9", "10"),
          "not used"),
    Class("raw-data", ("66",), "not used"),
    Class("whole-slide", ("77.1.6", "77.1.9"), "refused with its size"),
)  # fmt: skip
_EXACT = {STORAGE + uid: entry.kind for entry in CLASSES for uid in entry.uids if not uid.endswith(".")}
_BELOW = {STORAGE + uid: entry.kind for entry in CLASSES for uid in entry.uids if uid.endswith(".")}
TAGS = ("SOPClassUID", "Modality", "ImageType", "TotalPixelMatrixRows", "TotalPixelMatrixColumns")


def checked_kinds(words: Collection[str]) -> frozenset[str]:
    """Return the kinds that an operator asks for; raises ConfigError for a word that names none."""
    for word in words:
        if word not in INCLUDABLE:
            raise ConfigError(f"Expected one of {', '.join(INCLUDABLE)}, got {word!r}.", remedy="Correct --include.")
    return frozenset(words)


def kind_of(dataset: Dataset) -> str:
    """Return `PICTURE`, or the reason for which a file is not a training picture.

    Args:
        dataset: with its file meta information, whose class counts where the object states none.
    """
    meta = getattr(dataset, "file_meta", None) or Dataset()
    uid = _text(dataset, "SOPClassUID") or _text(meta, "MediaStorageSOPClassUID")
    modality = _text(dataset, "Modality").upper()
    kind = _EXACT.get(uid) or next((kind for start, kind in _BELOW.items() if uid.startswith(start)), "")
    if not kind:
        kind = MODALITIES.get(modality, PICTURE)
    if kind in (PICTURE, SECONDARY):
        words = _words(dataset, "ImageType")
        if words & SCREEN_WORDS:
            return SCREEN
        if kind == PICTURE and words & LOCALIZER_WORDS:
            return LOCALIZER
    return kind


def check_kind(dataset: Dataset, include: Collection[str] = ()) -> None:
    """Raise UnreadableImage, with the true reason, for a file that is not a training picture.

    Args:
        include: kinds of `INCLUDABLE` that the operator asks for.
    """
    kind = kind_of(dataset)
    if kind == PICTURE or kind in include:
        return
    detail = REASONS[kind]
    if kind in INCLUDABLE:
        detail += f"; --include {kind} takes it"
    if kind == "whole-slide":
        sides = [safely(lambda word=word: number_of(dataset, word), None) for word in TAGS[-2:]]  # type: ignore[misc]
        size = " x ".join("?" if side is None else f"{side:.0f}" for side in sides)
        detail += f" of {size} pixels, which is not supported; export tiles as images"
    raise UnreadableImage(kind, detail)


def check_kind_of(data: bytes, include: Collection[str] = ()) -> None:
    """Do as `check_kind` with a file's bytes; says nothing about a file that cannot be parsed, which the decoder reports."""
    bare = is_bare(data)
    if data[128:132] != b"DICM" and not bare:
        return
    try:
        data = undeflated(data)  # within a bound, which pydicom does not have
    except UnreadableImage:
        raise
    except Exception:  # a damaged head; the decoder reports it
        return
    head = safely(
        lambda: pydicom.dcmread(io.BytesIO(data), force=bare, stop_before_pixels=True, specific_tags=list(TAGS)),
        Dataset(),
    )
    check_kind(head, include)


def _text(dataset: Dataset, keyword: str) -> str:
    return str(safely(lambda: dataset.get(keyword), "") or "").strip(" \0")


def _words(dataset: Dataset, keyword: str) -> set[str]:
    value = safely(lambda: dataset.get(keyword), None)
    several = hasattr(value, "__iter__") and not isinstance(value, str)
    words = list(value)[:32] if several else [] if value is None else [value]
    return {str(word).strip().upper() for word in words}
