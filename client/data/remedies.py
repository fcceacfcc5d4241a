"""What to do about a file that is not used: one sentence for each reason code, for the operator of the site.

A test finds reason codes of the source that have no sentence here.
"""

import re
from collections.abc import Mapping

from salus.client.data.sources.accompanying import NOT_REFUSED, UNMATCHED
from salus.common.errors import DataError

_AGAIN = "Export the file again from the PACS, then register the data again."
_LAYOUT = "Arrange the folder by one of the layouts in docs/segmentation.md, or name masks and images with --masks and --images."
_SERIES = "Export the whole series again, each slice once, or remove it."
_OBJECT = "Nothing: such objects are not training images. They are listed so that nothing is lost silently."
_NUMBERS = "Correct the value in the label file or table."
_LABELS = "Add a row to the label file, or nothing if the image should not be used."
_PACS = "Run the import again, which fetches what is missing; if it fails again, look at the PACS's own log."

REMEDIES: dict[str, str] = {
    # what accompanies data
    "set-aside": "Nothing: it accompanies the data.",
    "part-of-refused": "Mend the sample that it belongs to, which is listed as well, or nothing if it was not chosen.",
    "label-without-image": "Compare the identifier with those of the images; remove the row if its image is not here.",
    # what is not an image of this kind
    "other-kind": "Nothing, or register it apart with the --kind that reads it.",
    "not-used": _LAYOUT,
    "archive": "Unpack the archive beside the data, or import a zip by itself.",
    "link": "Copy the file into the folder, or register the folder to which the link leads.",
    "not-a-file": "Remove it from the data folder.",
    "bad-name": "Rename the file.",
    "not-dicom": "Remove it, or register it apart with the --kind that reads it.",
    "no-pixels": _OBJECT,
    "annotation": "Register the folder with --volumes to use it as a mask, or import it with --structures.",
    "localizer": "Nothing, or --include localizer if such images should be used.",
    "secondary-capture": "Nothing, or --include secondary-capture if such images should be used.",
    "screen-capture": "Nothing, or --include screen-capture if such images should be used.",
    "dose": _OBJECT,
    "plan": _OBJECT,
    "parametric-map": _OBJECT,
    "presentation-state": _OBJECT,
    "registration": _OBJECT,
    "report": "Nothing; salus dataset labels reads measurements from reports.",
    "document": _OBJECT,
    "waveform": _OBJECT,
    "measurements": _OBJECT,
    "raw-data": _OBJECT,
    "whole-slide": "Export tiles as PNG or TIFF files, and register those with --kind images.",
    # what cannot be read
    "missing": "Restore the file from a backup.",
    "unreadable": "Give the user who runs Salus permission to read it, or check the disk.",
    "damaged": _AGAIN,
    "unsupported": "Convert the file with the vendor's or another DICOM tool, as the detail says.",
    "not-understood": "Correct the element that the detail names, or export the file again.",
    "too-large": "Split the file, or remove it.",
    "too-slow": "Register the data again when the machine is less busy; if it is the same file again, convert it.",
    "crashed": "Register the data again; if it is the same file again, it is damaged or hostile: remove it.",
    "nested-too-deep": _AGAIN,
    "zip-bomb": "Unpack the archive by hand after checking where it comes from.",
    "changed": "Restore the registered file, or register the data set again.",
    "not-open": "Run the command again.",
    "not-finite": "Export the image again; a pixel or number is not finite.",
    "bad-geometry": "Correct the element that the detail names, or export the file again.",
    "two-geometries": "Correct the header, so that both of its transforms say the same.",
    "bval-mismatch": "Correct the .bval file: one b-value for each volume.",
    "no-scale": "Export the image with the units that the detail names.",
    "no-suv": "Export the PET images with the elements that the detail names, or register them without --suv, "
    "in the scanner's own units. Register images that are not PET as a data set of their own.",
    "no-geometry": "Export the image with its position in the patient.",
    # who and what
    "no-patient": "Add PatientID to the file at its source, or to the label file.",
    "unlabelled": _LABELS,
    "label-outside-job": "Nothing, or declare the label: salus dataset declare.",
    "unknown-split": "Write train, val or test into the column split, or leave it empty.",
    "burned-in": "Install the text detector, pip install 'salus[ocr]', or give --mask for the device, and import again.",
    "not-imported": "Import the original with salus dataset import; this file was put into the store by hand.",
    "duplicate": "Nothing: one copy is used.",
    "withdrawn": "Nothing: its patient has withdrawn and is not used again; salus dataset withdrawals lists the papers.",
    # series and volumes
    "no-series": "Export the file with its SeriesInstanceUID.",
    "colour": "Nothing: derived DICOM images are written of grey ones only; the processed image is in the folder nifti.",
    "bad-outcome": "Give a time from 0 on as the label, and 1 or 0 in the column of the event.",
    "no-spacing": "Export the image with its pixel spacing, or give the filter its size in voxels.",
    "not-compressible": "Leave the step compress out for such images.",
    "no-position": "Export the slices with ImagePositionPatient, or register them one by one, without --volumes.",
    "colour-volume": "Register the images one by one, without --volumes.",
    "colour-frames": "Export each picture to a file of its own.",
    "single-slice": "Export the whole series, or register it without --volumes.",
    "odd-slice": "Nothing, or export its series again if slices are missing.",
    "incomplete-volume": _SERIES,
    "same-place": "Export the series again with the element that distinguishes its volumes, such as EchoTime.",
    "missing-slice": _SERIES,
    "repeated-slice": _SERIES,
    "uneven-slices": _SERIES,
    "uneven-spacing": "Export a reconstruction with even spacing.",
    "uneven-channels": "Name another dimension with --channels, or none.",
    "mixed-series": "Export each series with its own SeriesInstanceUID.",
    "mixed-channels": "Bring all channels of a case onto one grid.",
    "several-frames": "Export each frame to a file of its own.",
    "clip": "Register it without --volumes; --frames says how its frames are taken.",
    "several-pictures": "Save each picture to a file of its own.",
    "several-volumes": "Say with --channels what the volumes of the file stand for, or save each one to a file of its own.",
    "several-series": "Export one annotation object for each series.",
    "image-without-header": "Put the .hdr file beside it.",
    "header-without-image": "Put the .img file beside it.",
    # masks, boxes and other annotations
    "annotation-geometry": "Export the annotation again for exactly these images.",
    "annotation-reference": "Bring the images to which it refers into the folder.",
    "mask-without-image": "Bring the image into the folder, or give both the same name.",
    "mask-elsewhere": "Export the mask in the space of its image.",
    "mask-geometry": "Correct the header of the mask, so that it says where the mask lies.",
    "mask-of-another-grid": "Export the mask on the grid of its image.",
    "other-grid": "Export the mask on the grid of its image.",
    "bad-mask": "Export the segmentation again.",
    "not-a-mask": "Check --masks: the file holds intensities, or numbers that are not whole.",
    "ambiguous-mask": "Give each mask the name of its image, or name the folder of one kind of masks with --masks.",
    "several-masks": "Name the folder of one kind of masks with --masks.",
    "no-contours": "Draw the structure in the annotation, or leave it out of --structures.",
    "no-structure": "Export the object with the names of its structures.",
    "unknown-structure": "Correct --structures, or the names in the data.",
    "other-structures": "Nothing, or name its structures with --structures.",
    "overlapping-structures": "Choose structures that do not overlap with --structures.",
    "own-prediction": "Nothing: Salus itself wrote it, and a model must not learn from its own output.",
    "no-annotation": "Nothing, or annotate the image.",
    "not-annotated": "Annotate the image, or leave it out of the job.",
    "bad-target": "Export the annotation again.",
    "mixed-patients": "Give each patient's images series and study identifiers of their own.",
    "unclear-patient": "Correct PatientID at its source: one value of at most 64 printable characters.",
    "no-identifiers": "Export the image with valid UIDs.",
    "no-study": "Export the object with its StudyInstanceUID.",
    "unlisted": "Add the file to dataset.json, or remove it.",
    "bad-entry": "Correct the entry of dataset.json.",
    "listed-twice": "Remove one of the entries of dataset.json.",
    "boxes-without-image": "Give the file of boxes the name of its image.",
    "boxes-mismatch": "Export the boxes again for this size of the image.",
    "image-missing": "Bring the image into the folder, or remove it from the list.",
    "degenerate-box": "Correct the box, which has no area.",
    "box-outside": "Correct the box, which lies beside the image.",
    "bad-box": "Correct the box, whose corners are not finite numbers.",
    "crowd-box": "Nothing, or draw a box around each object.",
    "ragged": "Correct the line, which has more or fewer cells than the header.",
    "not-a-number": _NUMBERS,
    "bad-label": _NUMBERS,
    # a PACS
    "pacs": _PACS,
    "pacs-list": _PACS,
    "no-study-uid": "Let the PACS's administrator correct the study, which has no valid StudyInstanceUID.",
    "no-series-uid": "Let the PACS's administrator correct the study, a series of which has no valid UID.",
    "no-instance-uid": "Let the PACS's administrator correct the series, an object of which has no valid UID.",
}
UNKNOWN = "Read the detail; if it does not help, remove the file."
KEYWORD = re.compile(r"\b[A-Z][a-z]+[A-Z][A-Za-z0-9]+\b|\bRows\b|\bColumns\b|\bModality\b")


def remedy_of(reason: str) -> str:
    """Return what the operator can do about files of this reason."""
    return REMEDIES.get(reason, UNKNOWN)


def element_of(detail: str) -> str:
    """Return the first DICOM keyword that a detail names; empty if it names none."""
    from pydicom.datadict import tag_for_keyword  # late, as it is large

    return next((word for word in KEYWORD.findall(detail) if tag_for_keyword(word) is not None), "")


MOST_REMEDIES = 3  # beside each other in one error


def nothing_usable(reasons: Mapping[str, int]) -> DataError:
    """Return the error of a data set in which nothing can be used, with what most likely is wrong.

    Args:
        reasons: files by the reason for which they are not used, and rows of the label file without an image.
    """
    refused = {reason: count for reason, count in reasons.items() if reason not in NOT_REFUSED}
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items()))
    remedy = "Check the path, the kind of data and the label file."
    if set(refused) == {"unlabelled"} and reasons.get(UNMATCHED):
        remedy = (
            f"None of the {reasons[UNMATCHED]} rows of the label file belongs to a file here: compare its names of files or "
            "identifiers with those of the data; leading zeros and suffixes count."
        )
    elif len(refused) == 1:
        remedy = remedy_of(next(iter(refused)))
    elif 1 < len(refused) <= MOST_REMEDIES:
        remedy = " ".join(f"{reason}: {remedy_of(reason)}" for reason in sorted(refused))
    return DataError(f"Found no usable sample; files not used: {listed or 'none'}.", remedy=remedy)
