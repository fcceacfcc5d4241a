"""The child's role for DICOM objects as such: it de-identifies them, and reads numbers and headers."""

import functools
import json
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import pydicom
from pydantic import Field
from pydicom.uid import UID, ComprehensiveSRStorage, SecondaryCaptureImageStorage, SegmentationStorage

from salus.client.data.dicom.annotations import MAX_FOUND, Annotation, annotations_of
from salus.client.data.dicom.channel import Buffer
from salus.client.data.dicom.clean_frames import deidentify_frames
from salus.client.data.dicom.clean_segmentation import deidentify_segmentation
from salus.client.data.dicom.decoder_process import Ask, problem_of
from salus.client.data.dicom.decoders import load_decoders
from salus.client.data.dicom.deidentify import Clean, PixelMask, Rules, deidentify
from salus.client.data.dicom.derived import Derivation, derived
from salus.client.data.dicom.frames import has_planes
from salus.client.data.dicom.instances import Instance, Uid, instance_of, is_uid
from salus.client.data.dicom.kinds import check_kind
from salus.client.data.dicom.lookup import is_sequence
from salus.client.data.dicom.messages import Answer, Operation, Problem
from salus.client.data.dicom.numbers import safely
from salus.client.data.dicom.opening import open_dataset
from salus.client.data.dicom.picture import guarded
from salus.client.data.dicom.references import ANNOTATIONS as ANNOTATION_CLASSES
from salus.client.data.dicom.references import HEAD_BYTES, SEGMENTATIONS, is_annotation
from salus.client.data.dicom.text import MOST_BOXES, TextFinder
from salus.client.data.patient_map import PURPOSE
from salus.client.data.pseudonyms import pseudonym
from salus.client.data.sealing import Sealer
from salus.client.outgoing.producer import MANUFACTURER, RESEARCH
from salus.common.errors import UnreadableImage
from salus.common.strict import Strict

MAX_DEPTH = 20  # of nested sequences; real objects stay below ten
MAX_CLEAN_BYTES = 2**31
MAX_TOGETHER = 64  # files in one exchange
MAX_TOGETHER_BYTES = 2**27  # of their clean objects; more than that goes one by one
DERIVED_CLASSES = (SecondaryCaptureImageStorage, SegmentationStorage, ComprehensiveSRStorage)
CLEAN, CLEAN_MANY, ANNOTATIONS, HEADER, DERIVE = "clean", "clean-many", "annotations", "header", "derive"
IDENTIFY = "identify"
Pixel = Annotated[int, Field(ge=0, le=2**16)]
Digits = Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")]


class Cleaned(Answer):
    """The facts of a de-identified object; the object follows."""

    patient: Digits
    study: Digits
    vendor: Annotated[str, Field(pattern=r"^[A-Z]{0,20}$")]
    sealed_patient: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/=]{0,5000}$")]
    counts: dict[Literal["kept", "dropped", "private", "sequences"], Annotated[int, Field(ge=0, le=10**7)]]
    size: Annotated[int, Field(ge=0, le=MAX_CLEAN_BYTES)]
    annotation: bool = False
    others: dict[Literal["instance", "series", "accession", "former"], Digits] = Field(default_factory=dict)
    searched: bool = False
    texts: Annotated[tuple[tuple[Pixel, Pixel, Pixel, Pixel], ...], Field(max_length=MOST_BOXES)] = ()
    outside: bool = False

    @property
    def body_bytes(self) -> int:
        return self.size


class CleanedMany(Answer):
    """The facts of several de-identified objects, or why there is none; the objects follow one after the other."""

    results: Annotated[tuple[Cleaned | Problem, ...], Field(max_length=MAX_TOGETHER)]

    @property
    def body_bytes(self) -> int:
        total = sum(result.size for result in self.results if isinstance(result, Cleaned))
        if total > MAX_TOGETHER_BYTES:
            raise ValueError("more bytes than several objects may have")
        return total


class Numbers(Answer):
    """What a segmentation or report measures."""

    found: Annotated[tuple[Annotation, ...], Field(max_length=MAX_FOUND)] = ()


class Header(Answer):
    """What an object that is derived from an image repeats of its header."""

    instance: Instance


class Identity(Answer):
    """What an object is, for who keeps it until its study is whole.

    Args:
        image: whether it is an image; reports, plans, segmentations and the like are none.
        own: whether Salus itself wrote it.
    """

    study_uid: Uid
    instance_uid: Uid
    image: bool
    own: bool


class Deriving(Strict):
    """What is to be derived; the operation's data are the source's bytes and then the new pixels, float32 row by row."""

    derivation: Derivation
    source_bytes: Annotated[int, Field(ge=0)]
    rows: Annotated[int, Field(ge=1, le=65535)]
    columns: Annotated[int, Field(ge=1, le=65535)]


class Derived(Answer):
    """An image that was derived from a file; its own file follows."""

    size: Annotated[int, Field(ge=0, le=MAX_CLEAN_BYTES)]

    @property
    def body_bytes(self) -> int:
        return self.size


class Cleaning:
    """The role.

    Args:
        settings: JSON with the masks, each as its fields in order, the names of structures, the kinds that are
            included, and whether burned-in text is found.
        secret: the site's secret for pseudonyms; empty where nothing is to be de-identified.
    """

    def __init__(self, settings: str, secret: bytes, ask: Ask) -> None:
        load_decoders()
        # What is kept is parsed and bounded here, and what is written was built here: pydicom's own checks only warn.
        settings_of_reader = pydicom.config.settings
        settings_of_reader.reading_validation_mode = settings_of_reader.writing_validation_mode = pydicom.config.IGNORE
        masks = tuple(
            PixelMask(vendor, rows, columns, tuple(tuple(box) for box in boxes))
            for vendor, rows, columns, boxes in json.loads(settings)["masks"]
        )
        seal = Sealer(secret, PURPOSE).seal if secret else (lambda text: "")
        structures = tuple(json.loads(settings)["structures"])
        include = frozenset(json.loads(settings)["include"])
        finder = TextFinder() if json.loads(settings)["text"] else None
        self._rules = Rules(
            lambda kind, value: pseudonym(secret, kind, value), secret, masks, seal, structures, include, finder
        )

    def answer(self, operation: Operation, data: bytearray) -> tuple[Answer, Sequence[Buffer]]:
        """De-identify an object, list its numbers, read its header, or derive an image from it."""
        if operation.name == DERIVE:
            return guarded("the file", functools.partial(self._derived, bytes(data), operation.argument))
        if operation.name == CLEAN_MANY:
            return self._cleaned_many(data, json.loads(operation.argument))
        action = {
            CLEAN: self._cleaned,
            ANNOTATIONS: self._annotated,
            HEADER: self._headed,
            IDENTIFY: self._identified,
        }[operation.name]
        return guarded("the file", functools.partial(action, bytes(data)))

    def _cleaned(self, data: bytes) -> tuple[Answer, Sequence[Buffer]]:
        clean = _clean(data, self._rules)
        answer = Cleaned(
            patient=clean.patient,
            study=clean.study,
            vendor=clean.vendor,
            sealed_patient=clean.sealed_patient,
            others=vars(clean.others),  # type: ignore[arg-type]  # checked here, too
            counts=clean.counts,  # type: ignore[arg-type]  # checked here, as everywhere
            size=len(clean.data),
            annotation=clean.annotation,
            searched=clean.blanked is not None,
            texts=() if clean.blanked is None else clean.blanked.boxes,
            outside=clean.blanked is not None and clean.blanked.outside,
        )
        return answer, [clean.data]

    def _cleaned_many(self, data: bytearray, lengths: Sequence[int]) -> tuple[Answer, Sequence[Buffer]]:
        """De-identify several small objects; whatever concerns all of them, such as memory, ends the operation."""
        results: list[Answer | Problem] = []
        bodies: list[Buffer] = []
        whole, start = memoryview(data), 0
        for length in lengths:
            one = bytes(whole[start : start + length])
            start += length
            try:
                answer, body = guarded("the file", functools.partial(self._cleaned, one))
            except MemoryError:
                raise
            except Exception as problem:
                results.append(problem_of(problem))
                continue
            results.append(answer)
            bodies += body
            if sum(map(len, bodies)) > MAX_TOGETHER_BYTES:
                raise MemoryError
        return CleanedMany(results=tuple(results)), bodies  # type: ignore[arg-type]  # checked here, as everywhere

    @staticmethod
    def _annotated(data: bytes) -> tuple[Answer, Sequence[Buffer]]:
        return Numbers(found=tuple(annotations_of(_parsed(data)))), []

    @staticmethod
    def _derived(data: bytes, argument: str) -> tuple[Answer, Sequence[Buffer]]:
        """Return a derived image; the new pixels lie behind the source's bytes, float32 row by row."""
        wanted = Deriving.model_validate_json(argument)
        pixels = np.frombuffer(data, "<f4", offset=wanted.source_bytes).reshape(wanted.rows, wanted.columns)
        file = derived(_parsed(data[: wanted.source_bytes]), pixels, wanted.derivation)
        return Derived(size=len(file)), [file]

    @staticmethod
    def _headed(data: bytes) -> tuple[Answer, Sequence[Buffer]]:
        if is_annotation(data[:HEAD_BYTES]):
            raise UnreadableImage("annotation", "a segmentation or structure set, which is no image")
        return Header(instance=instance_of(_parsed(data))), []

    @staticmethod
    def _identified(data: bytes) -> tuple[Answer, Sequence[Buffer]]:
        dataset = _parsed(data)
        names = [str(dataset.get(keyword, "") or "") for keyword in ("StudyInstanceUID", "SOPInstanceUID")]
        if not all(is_uid(name) for name in names):
            raise UnreadableImage("no-identifiers", "an object without valid identifiers")
        image = "PixelData" in dataset and not is_annotation(data[:HEAD_BYTES])
        kinds = (dataset.get("SOPClassUID", ""), dataset.file_meta.get("MediaStorageSOPClassUID", ""))
        if not image and any("Image Storage" in UID(str(kind or "")).name for kind in kinds):
            # Not something else beside the images, which its sender may forget, but an image that was cut off.
            raise UnreadableImage("no-pixels", "an image without its pixels")
        # Only what Salus writes: a scanner may have the same manufacturer's name.
        marks = [
            str(dataset.get(keyword, "") or "") for keyword in ("Manufacturer", "ContentQualification", "SOPClassUID")
        ]
        own = marks[:2] == [MANUFACTURER, RESEARCH] and marks[2] in DERIVED_CLASSES and names[1].startswith("2.25.")
        return Identity(study_uid=names[0], instance_uid=names[1], image=image, own=own), []


def _clean(data: bytes, rules: Rules) -> Clean:
    dataset = _parsed(data)
    if str(safely(lambda: dataset.file_meta.get("MediaStorageSOPClassUID"), "")) in ANNOTATION_CLASSES:
        if not rules.structures or str(dataset.get("SOPClassUID", "")) not in SEGMENTATIONS:
            raise UnreadableImage("annotation", "a structure set, or a segmentation where no structures are named")
        return deidentify_segmentation(dataset, rules)
    check_kind(dataset, rules.include)
    return deidentify_frames(dataset, rules) if has_planes(dataset) else deidentify(dataset, rules)


def _parsed(data: bytes) -> pydicom.Dataset:
    """Return a file's elements; refuses too deeply nested files."""
    dataset = open_dataset(data)
    _check_depth(dataset)
    return dataset


def _check_depth(dataset: pydicom.Dataset, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise UnreadableImage("nested-too-deep", "it nests sequences too deeply")
    for element in list(dataset.values()):  # the others are parsed when they are needed; most never are
        if is_sequence(element) or element.VR == "UN" or (element.VR is None and element.tag.is_private):
            for item in _items(dataset, element.tag):
                _check_depth(item, depth + 1)


def _items(dataset: pydicom.Dataset, tag: int) -> Sequence[pydicom.Dataset]:
    try:
        element = dataset[tag]
    except (RecursionError, MemoryError):
        raise
    except Exception:  # what cannot be parsed has no depth; if it matters, whoever needs it fails
        return ()
    return element.value or () if element.VR == "SQ" else ()
