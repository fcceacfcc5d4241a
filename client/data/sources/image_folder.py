"""A folder of PNG, JPEG, BMP or TIFF files and a CSV of labels; the CSV should name each file's patient."""

import hashlib
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from salus.client.data.records import (
    PATIENT_BY,
    FloatArray,
    ImageRecord,
    Quarantined,
    Sample,
    array_digest,
    picture_key,
)
from salus.client.data.sources.base import MAX_PICTURE_VALUES, Files, files_of
from salus.client.data.sources.box_files import BoxFiles
from salus.client.data.sources.boxes import REASONS, UsedBoxes, used
from salus.client.data.sources.cells import extra_of, with_digest
from salus.client.data.sources.label_match import LabelRow, Labels
from salus.client.data.sources.labels import check_patients, has_label_file, read_labels
from salus.client.data.sources.outlines import Annotated
from salus.client.data.sources.settings import ImageSettings
from salus.client.data.sources.voc import read_voc
from salus.client.data.structures import checked_names
from salus.client.data.targets import Target
from salus.common.errors import UnreadableImage

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")  # the content decides, whatever the name says


class ImageFolder:
    """One sample per image file, with its boxes if there are any. If the label file names no patient, every distinct image counts
    as one."""

    Settings = ImageSettings
    unit_range = True  # values from 0 to 1, whatever is asked for, see `grey_values`

    @staticmethod
    def prepare() -> None:
        """Load Pillow's decoders, decode one picture with each, and parse one file of boxes."""
        Image.init()
        for kind in FORMATS:
            buffer = io.BytesIO()
            Image.new("RGB", (2, 2)).save(buffer, kind)
            _decoded(buffer.getvalue())
        read_voc(b"<annotation><size><width>1</width></size></annotation>")

    def __init__(self, files: Files, options: ImageSettings) -> None:
        self._files, self._options = files, options
        checked_names(options.structures)
        self._labels: Labels | None = None
        labelled = options.unlabelled or bool(options.labels) or has_label_file(files)
        names = list(files.names()) if options.annotations or not labelled else []
        images = frozenset(name for name in names if _is_image(name))
        self._boxes = BoxFiles(files, options, images, names)
        if labelled or not self._boxes:
            self._labels = read_labels(files, options)
            check_patients(self._labels)

    def wants(self, name: str) -> bool:
        """Return whether a file's name is that of an image, of boxes without an image, or of a list of boxes."""
        return _is_image(name) or name in self._boxes.orphans or self._boxes.is_list(name)

    def is_part(self, name: str) -> bool:
        """Return whether a file holds the boxes of an image."""
        return self._boxes.is_part(name)

    def group(self, name: str) -> str:
        """Return nothing: each file is a sample."""
        return ""

    def examine(self, names: Sequence[str]) -> Iterator[ImageRecord | Quarantined]:
        """Yield the sample of each file, and the boxes that cannot be used."""
        for name in names:
            if name in self._boxes.orphans:
                raise UnreadableImage(
                    "boxes-without-image", "no image, or several, have the name of this file of boxes"
                )
            if self._boxes.is_list(name):
                yield from self._boxes.problems(name)
                continue
            row, file = self._row(name), self._boxes.file_of(name)
            if row is None and not file:
                raise UnreadableImage("unlabelled", "no label for this file")
            key = json.dumps([name, file]) if file else name
            sample, boxes, targets = self._loaded(name, row)
            for place, reason in () if boxes is None else boxes.dropped:
                yield Quarantined(f"{file}/{PurePosixPath(name).name}/{place}", reason, REASONS[reason])
            info: dict[str, str | float | int | list[float]] = {
                "channels": sample.values.shape[0],
                "rows": sample.values.shape[1],
                "columns": sample.values.shape[2],
                "intensity_range": [float(sample.values.min()), float(sample.values.max())],
            }
            row = row or LabelRow("")
            info |= row.person
            patient = row.patient
            if not patient:
                patient, info[PATIENT_BY] = picture_key(sample.pixel_sha256), "picture"
            split = row.split or self._boxes.split_of(name)
            yield ImageRecord(
                patient, patient, key, row.label, split, sample.sha256, sample.pixel_sha256,
                group=row.group, info=info, targets=targets,
            )  # fmt: skip

    def _row(self, name: str) -> LabelRow | None:
        if self._labels is None:
            return None
        find = self._labels.find
        return find(file=name, owner=name) or find(file=PurePosixPath(name).name, owner=name)

    def unmatched(self) -> Iterator[Quarantined]:
        """Yield the rows of the label file that no image has, see `Labelled`."""
        return iter(()) if self._labels is None else self._labels.unmatched()

    def load(self, key: str) -> Sample:
        """Return ``[1, rows, columns]`` for grey and ``[3, rows, columns]`` for colour, rotated as the file says."""
        name = files_of(key)[0]
        return self._loaded(name, self._row(name))[0]

    def _loaded(self, name: str, row: LabelRow | None) -> tuple[Sample, UsedBoxes | None, dict[str, Target]]:
        data = bytes(self._files.read(name))
        values = _decoded(data)
        sample = Sample(values, sha256=hashlib.sha256(data).hexdigest(), pixel_sha256=array_digest(values))
        extra = extra_of(row, self._files, self._options)
        found, text = self._boxes.of(name)
        if found is None:
            return extra.on(sample), None, extra.targets
        boxes = used(found, values.shape[1], values.shape[2], self._options.structures)
        text_digest = hashlib.sha256(text.encode()).hexdigest()
        sample = replace(sample, sha256=with_digest(sample.sha256, text_digest))
        annotated = Annotated(boxes, found.outlined, values.shape[1:])
        return extra.on(annotated.on(sample)), boxes, {**annotated.targets, **extra.targets}


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _decoded(data: bytes) -> FloatArray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if getattr(image, "n_frames", 1) != 1:
                    raise UnreadableImage("several-pictures", "the file holds several images")
                colours = 1 if image.mode in ("1", "L", "LA") or image.mode.startswith("I;16") else 3
                if image.width * image.height * colours > MAX_PICTURE_VALUES:  # as the header declares, before decoding
                    raise UnreadableImage("too-large", f"the image declares {image.width} x {image.height} pixels")
                return _unit_range(ImageOps.exif_transpose(image))
    except UnreadableImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limit
        raise UnreadableImage("too-large", "the image declares too many pixels") from None
    except MemoryError:
        raise UnreadableImage("too-large", "the image needs more memory than allowed") from None
    except Exception:  # Pillow's plug-ins raise TypeError, SyntaxError, struct.error ... on damaged files
        raise UnreadableImage("damaged", "the image cannot be decoded") from None


def _unit_range(image: Image.Image) -> FloatArray:
    """Return ``[channels, rows, columns]`` from 0 to 1 by the mode's own range; transparency is dropped."""
    if image.mode.startswith("I;16"):
        return np.asarray(image.convert("I"), dtype=np.float32)[None] / np.float32(65535)
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"), dtype=np.float32)[None] / np.float32(255)
    if image.mode in ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"):
        colour = np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)
        return np.ascontiguousarray(np.moveaxis(colour, -1, 0))
    raise UnreadableImage("unsupported", "this pixel mode has no fixed range of values")
