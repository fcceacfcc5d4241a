"""Enhanced multi-frame objects: each frame as an image of its own, with its own plane, units, window and dimensions.

PS3.3 C.7.6.16: what a classic image states once, an enhanced object states in functional groups, shared by all frames or for each
frame. Here a frame's groups are dissolved: their elements take the place that they have in a classic image, so that one code says
what elements mean. Legacy converted enhanced objects keep further elements in groups of their own, which are dissolved likewise.
An element of the groups that changes what pixels mean or where they lie, in a group that is not known, is refused by its name.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian

from salus.client.data.dicom.elements import PIXELS, keywords_of
from salus.client.data.dicom.lookup import is_sequence
from salus.client.data.dicom.nuclear import is_reconstructed, planes_of
from salus.client.data.dicom.numbers import items_of, not_understood, number_of, whole_of
from salus.client.data.dicom.stored import Form, stored_pixels

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
MAX_FRAMES = 2**16
# What is taken from each group, beside all elements that change pixels or places; in the order of PS3.3 C.7.6.16.2.
MACROS: dict[str, tuple[str, ...]] = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "FrameContentSequence": ("TemporalPositionIndex", "FrameAcquisitionNumber"),
    "FrameAnatomySequence": ("FrameLaterality",),
    "CTImageFrameTypeSequence": ("FrameType",),
    "MRImageFrameTypeSequence": ("FrameType", "ComplexImageComponent"),
    "PETFrameTypeSequence": ("FrameType",),
    "XAXRFFrameCharacteristicsSequence": (),
    "XRay3DFrameTypeSequence": ("FrameType",),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRDiffusionSequence": ("DiffusionBValue", "DiffusionGradientDirectionSequence"),
    "MRTimingAndRelatedParametersSequence": ("RepetitionTime", "FlipAngle"),
    "CardiacSynchronizationSequence": (
        "NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime", "ActualCardiacTriggerDelayTime",
    ),
    "CTReconstructionSequence": ("ConvolutionKernel",),
    "CTXRayDetailsSequence": ("KVP",),
    "TemporalPositionSequence": ("TemporalPositionTimeOffset",),
    "RealWorldValueMappingSequence": (),
    "FramePixelDataPropertiesSequence": (),
    "UnassignedSharedConvertedAttributesSequence": (
        "EchoTime", "EchoNumbers", "InversionTime", "TriggerTime", "TemporalPositionIdentifier", "AcquisitionNumber",
        "FlipAngle", "RepetitionTime", "KVP", "ConvolutionKernel", "ImageType", "ContrastBolusAgent", "FrameReferenceTime",
    ),
}  # fmt: skip
MACROS["UnassignedPerFrameConvertedAttributesSequence"] = MACROS["UnassignedSharedConvertedAttributesSequence"]
REFUSED = ("PlanePositionVolumeSequence", "PlaneOrientationVolumeSequence", "PlanePositionSlideSequence")
WHOLE = ("RealWorldValueMappingSequence",)  # understood as a sequence
MEANING = frozenset(keywords_of("read", "applied", "checked", "refused")) - {SHARED, PER_FRAME}
KEPT = MEANING | {"RadiopharmaceuticalInformationSequence", "ViewCodeSequence"}  # sequences of the whole object
Element = DataElement | RawDataElement


def has_groups(dataset: Dataset) -> bool:
    """Return whether an object states the properties of its frames in functional groups."""
    return SHARED in dataset or PER_FRAME in dataset


def has_planes(dataset: Dataset) -> bool:
    """Return whether an object's frames have places or properties of their own, so that `frames_of` splits it."""
    return has_groups(dataset) or is_reconstructed(dataset)


def frame_digest(file: str, number: int) -> str:
    """Return the hash that stands for one frame of a file with this hash."""
    return hashlib.sha256(f"{file} {number}".encode()).hexdigest()


def frames_of(dataset: Dataset) -> Iterator[Dataset]:
    """Yield each frame as a classic image with uncompressed pixels, its number being the instance number.

    Damaged files make it raise arbitrary exceptions; call it within `picture.guarded`.

    Raises:
        UnreadableImage: too many frames or pixels, a number of groups that is not that of the frames, or an element of the groups
            that matters and is not understood, by its name.
    """
    count = whole_of(dataset, "NumberOfFrames", 1, least=1, most=MAX_FRAMES)
    shared, own = items_of(dataset, SHARED), items_of(dataset, PER_FRAME)
    if len(shared) > 1:
        raise not_understood(SHARED, "has several items")
    if own and len(own) != count:
        raise not_understood(PER_FRAME, f"has {len(own)} items for {count} frames")
    common = {**_described(dataset), **(_dissolved(shared[0]) if shared else {})}
    groups: list[dict[BaseTag, Element]] = [_dissolved(item) for item in own]  # all before any pixel is decoded
    if not own and is_reconstructed(dataset):
        groups = [_elements(plane) for plane in planes_of(dataset, count)]
    form, pixels = stored_pixels(dataset)
    for number in range(count):
        yield _frame({**common, **(groups[number] if groups else {})}, pixels[number], form, number)


def _frame(elements: dict[BaseTag, Element], pixels: npt.NDArray[Any], form: Form, number: int) -> Dataset:
    frame = Dataset(elements)
    frame.file_meta = FileMetaDataset()
    frame.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    frame.set_original_encoding(is_implicit_vr=False, is_little_endian=True)
    frame.InstanceNumber = number + 1
    size = pixels.dtype.itemsize
    if form.samples == 3:  # the decoder has converted YBR to RGB
        frame.PhotometricInterpretation, frame.PlanarConfiguration = "RGB", 0
    if not form.floats:
        frame.BitsAllocated, frame.BitsStored, frame.HighBit = 8 * size, form.bits, form.bits - 1
    offset = number_of(frame, "TemporalPositionTimeOffset")
    if offset is not None and "FrameReferenceTime" not in frame:
        frame.FrameReferenceTime = f"{1000 * offset:.9g}"
    data = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
    vr = {"PixelData": "OB" if size == 1 else "OW", "FloatPixelData": "OF"}.get(form.keyword, "OD")
    frame.add_new(tag_for_keyword(form.keyword) or 0, vr, data + b"\0" * (len(data) % 2))
    return frame


def _elements(values: Mapping[str, object]) -> dict[BaseTag, Element]:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return {element.tag: element for element in made}


def _described(dataset: Dataset) -> dict[BaseTag, Element]:
    """Return the object's own elements, without pixels, groups and what no image states."""
    left_out = {
        tag_for_keyword(keyword) for keyword in (*PIXELS, SHARED, PER_FRAME, "NumberOfFrames", "InstanceNumber")
    }
    found: dict[BaseTag, Element] = {}
    for tag in list(dataset.keys()):
        if tag in left_out or tag.is_private or tag.group >= 0x5000:
            continue
        element = dataset.get_item(tag)
        if element is not None and (not is_sequence(element) or keyword_for_tag(tag) in KEPT):
            found[tag] = dataset[tag] if is_sequence(element) else element
    return found


def _dissolved(item: Dataset) -> dict[BaseTag, Element]:
    """Return the elements of one item of the functional groups by their tags."""
    found: dict[BaseTag, Element] = {}
    for tag in list(item.keys()):
        keyword = keyword_for_tag(tag)
        if tag.is_private or not keyword:
            continue
        if keyword in REFUSED:
            raise not_understood(keyword, "is not supported")
        element = item.get_item(tag)
        if element is None or not is_sequence(element):
            continue
        inner = items_of(item, keyword)
        if keyword in WHOLE:
            found[tag] = item[tag]
        elif keyword in MACROS:
            found |= _taken(keyword, inner)
        else:
            _check_unknown(inner)
    return found


def _taken(macro: str, items: Sequence[Dataset]) -> Mapping[BaseTag, Element]:
    found: dict[BaseTag, Element] = {}
    wanted = MEANING.union(MACROS[macro])
    for item in items[:1]:
        for tag in list(item.keys()):
            if keyword_for_tag(tag) in wanted and not tag.is_private:
                element = item.get_item(tag)
                assert element is not None  # Safe because the tag is one of the item's.
                found[tag] = item[tag] if is_sequence(element) else element
    if len(items) > 1 and any(keyword_for_tag(tag) in MEANING for tag in found):
        raise not_understood(macro, "has several items")
    return found


def _check_unknown(items: Sequence[Dataset]) -> None:
    """Raise UnreadableImage for an element that matters in a group of which nothing else is known."""
    for item in items:
        for tag in list(item.keys()):
            if keyword_for_tag(tag) in MEANING:
                raise not_understood(keyword_for_tag(tag), "is in a functional group that is not supported")
