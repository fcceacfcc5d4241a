"""De-identification of enhanced multi-frame objects: functional groups are rebuilt from checked numbers and words, never copied.

Each frame is described as a classic image would be, and what it says is then sorted into the groups of the standard: what all
frames share, and what each has of its own. Read again, it gives the numbers, windows, places and dimensions of the original.
"""

from collections.abc import Sequence

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from salus.client.data.dicom.burned_in import Blanked, without
from salus.client.data.dicom.clips import write_intervals
from salus.client.data.dicom.deidentify import Clean, Rules, deidentify, describe
from salus.client.data.dicom.dimensions import KINDS
from salus.client.data.dicom.elements import PIXELS
from salus.client.data.dicom.frames import MACROS, PER_FRAME, SHARED, frames_of
from salus.client.data.dicom.numbers import not_understood, safely, whole_of, words_of
from salus.client.data.dicom.text import Box, merged

FRAME_TYPES = {"CT": "CTImageFrameTypeSequence", "MR": "MRImageFrameTypeSequence", "PT": "PETFrameTypeSequence"}
OWN_GROUP, SHARED_GROUP = "UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence"
DIRECTION = "DiffusionGradientDirectionSequence"
# The group of each element; of several the first one. The others go into the groups of legacy converted objects.
GROUPS = {
    keyword: macro
    for macro, keywords in reversed(MACROS.items())
    if macro not in (OWN_GROUP, SHARED_GROUP)
    for keyword in keywords
}
# Elements of the whole object, in which frames cannot differ.
OBJECT = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "BurnedInAnnotation", "Modality", "ImageType", "PatientPosition", "BodyPartExamined",
    "ViewPosition", "BreastImplantPresent", "ImageLaterality", "Laterality",
)  # fmt: skip
FLAGS = ("FrameType", "ComplexImageComponent")


def deidentify_frames(dataset: Dataset, rules: Rules) -> Clean:
    """Return the de-identified object of an enhanced multi-frame image; errors as in `deidentify.deidentify`."""
    return deidentify(dataset, rules, describe_frames)


def describe_frames(clean: Dataset, dataset: Dataset, vendor: str, rules: Rules) -> Blanked | None:
    """Write pixels and functional groups, and return what was blanked, in all frames what was found in any.

    Raises:
        UnreadableImage: as `frames.frames_of` and `deidentify.describe`, and ``not-understood`` for frames whose pixels differ
            in form.
    """
    described: list[Dataset] = []
    pixels: list[bytes] = []
    keyword = ""
    blanked: list[Blanked] = []
    for frame in frames_of(dataset):
        one = Dataset()
        done = describe(one, frame, vendor, rules)
        blanked += [] if done is None else [done]
        kinds = [word for word in words_of(frame, "FrameType") if word in KINDS]
        if kinds:
            one.FrameType = kinds
        keyword = next(name for name in PIXELS if name in one)
        size = one.Rows * one.Columns * one.SamplesPerPixel * one.BitsAllocated // 8
        pixels.append(one[keyword].value[:size])
        if not described:
            vr = one[keyword].VR
        for name in (keyword, "InstanceNumber"):
            if name in one:
                del one[name]
        described.append(one)
    _write_groups(clean, described)
    boxes = merged((box for done in blanked for box in done.boxes), described[0].Rows, described[0].Columns)
    data = _without(described[0], pixels, boxes)
    clean.NumberOfFrames = len(described)
    write_intervals(clean, dataset)
    clean.InstanceNumber = safely(lambda: whole_of(dataset, "InstanceNumber", 0, most=10**7), 0)
    clean.add_new(keyword, vr, data + b"\0" * (len(data) % 2))
    return Blanked(boxes, any(done.outside for done in blanked)) if blanked else None


def _without(form: Dataset, pixels: Sequence[bytes], boxes: Sequence[Box]) -> bytes:
    """Return the pixels of all frames, as bytes of the same form, with these boxes set to zero."""
    data = b"".join(pixels)
    if not boxes:
        return data
    shape = (len(pixels), form.Rows, form.Columns, form.SamplesPerPixel * form.BitsAllocated // 8)
    return without(np.frombuffer(data, np.uint8).reshape(shape), boxes).tobytes()


def _write_groups(clean: Dataset, frames: Sequence[Dataset]) -> None:
    first = frames[0]
    common = {e.tag for e in first if all(e.tag in frame and frame[e.tag] == e for frame in frames)}
    for frame in frames:
        for keyword in OBJECT:
            if (keyword in frame or keyword in first) and _tag(frame, first, keyword) not in common:
                raise not_understood(keyword, "differs between frames")
    whole = [tag for tag in common if first[tag].keyword in OBJECT]
    for tag in whole:
        clean.add(first[tag])
    modality = str(first.get("Modality", ""))
    shared = _grouped([first[tag] for tag in common if tag not in whole], modality, SHARED_GROUP)
    own = [_grouped([e for e in frame if e.tag not in common], modality, OWN_GROUP) for frame in frames]
    setattr(clean, SHARED, [shared])
    setattr(clean, PER_FRAME, own)


def _tag(frame: Dataset, first: Dataset, keyword: str) -> BaseTag:
    return (frame if keyword in frame else first)[keyword].tag


def _grouped(elements: Sequence[DataElement], modality: str, other: str) -> Dataset:
    """Return one item of the functional groups with these elements, each in its group."""
    macros: dict[str, Dataset] = {}
    for element in elements:
        group = GROUPS.get(element.keyword, other)
        if element.keyword in FLAGS:
            group = FRAME_TYPES.get(modality, "MRImageFrameTypeSequence")
        if element.keyword == "DiffusionGradientOrientation":
            group = "MRDiffusionSequence"
            direction = Dataset()
            direction.add(element)
            setattr(macros.setdefault(group, Dataset()), DIRECTION, [direction])
            continue
        macros.setdefault(group, Dataset()).add(element)
    item = Dataset()
    for name, macro in macros.items():
        setattr(item, name, [macro])
    return item
