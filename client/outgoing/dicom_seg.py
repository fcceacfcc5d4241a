"""Masks as DICOM segmentation objects (PS3.3, A.51), with the planes of their source images and references to them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from salus.client.data.dicom.instances import Instance, header_of, sources_of
from salus.client.outgoing.coding import Coded, dicom_text
from salus.client.outgoing.highdicom_extra import algorithm_of, concept, qualified, quiet, require_highdicom
from salus.client.outgoing.overlays import COLOURS
from salus.client.outgoing.producer import MANUFACTURER, Producer
from salus.common.errors import DataError, UnreadableImage
from salus.common.examples import Array
from salus.common.files import write_whole

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
SERIES_NUMBER = 900  # beyond those that scanners use


def write_segmentation(
    path: Path, planes: Array, instances: Sequence[Instance], structures: Sequence[Coded], producer: Producer
) -> Instance:
    """Write a binary segmentation, completely or not at all, and return what a report needs to refer to it.

    Args:
        planes: ``[instances, rows, columns]`` numbers of structures from 1 on, 0 for background; or
            ``[instances, rows, columns, structures]`` of 0 and 1 where structures may overlap.
        instances: the source images, in the order of their positions.
        structures: in the order of their numbers.

    Guarantees: every structure has a segment, found or not; frames without any structure are left out; the identifiers follow
    from the model, the sources and the mask, so the same prediction has the same identifiers.

    Raises:
        ConfigError: highdicom is not installed.
        UnreadableImage: several slices without a common frame of reference, or images of a kind for which the standard
            allows no segmentation.
        DataError: planes that do not fit the images or the structures.
    """
    require_highdicom()
    _check(planes, instances, structures)
    content = np.ascontiguousarray(planes, dtype=np.uint8)
    names = "/".join(f"{one.name}={one.type.scheme}:{one.type.value}" for one in structures)
    uid = producer.uid("segmentation", sources_of(instances), names, producer.content(content.tobytes()))
    series = producer.uid("series", uid)
    try:
        with quiet():
            written = _object(content, instances, structures, producer, uid, series)
    except ValueError:
        # The standard asks for a frame of reference, or for functional groups, that images of this kind do not have.
        raise UnreadableImage("no-segmentation", "DICOM allows no segmentation of an image with this header") from None
    write_whole(path, qualified(written, instances[0]))
    return instances[0].model_copy(
        update={"sop_class_uid": SOP_CLASS, "sop_instance_uid": uid, "series_uid": series, "modality": "SEG"}
    )


def _object(
    content: Array,
    instances: Sequence[Instance],
    structures: Sequence[Coded],
    producer: Producer,
    uid: str,
    series: str,
) -> Any:
    """Return the object; raises ValueError for images that the standard allows no segmentation of."""
    hd, algorithm = require_highdicom(), algorithm_of(producer)
    title = producer.title("Segmentation")
    return hd.seg.Segmentation(
        [header_of(instance) for instance in instances],
        content,
        hd.seg.SegmentationTypeValues.BINARY,
        [_described(number, structure, algorithm) for number, structure in enumerate(structures, start=1)],
        series_instance_uid=series,
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=producer.job,
        software_versions=producer.version,
        device_serial_number=producer.model_sha256,
        content_label="SEGMENTATION",
        content_description=title,
        series_description=title,
        pixel_measures=_measures(instances) if instances[0].placed else None,
        omit_empty_frames=bool(content.any()),  # an object must have a frame, even where nothing was found
    )


def _check(planes: Array, instances: Sequence[Instance], structures: Sequence[Coded]) -> None:
    stacked = planes.ndim == 4
    expected = (len(instances), instances[0].rows, instances[0].columns, *([len(structures)] if stacked else []))
    if planes.shape != expected or (planes.size and planes.max() > (1 if stacked else len(structures))):
        raise DataError(
            f"Expected planes of shape {list(expected)} with {len(structures)} structures, got {list(planes.shape)}.",
            remedy="Use the job that trained the model.",
        )
    if len(instances) > 1 and len({instance.frame_of_reference_uid for instance in instances} - {None}) != 1:
        raise UnreadableImage("no-frame-of-reference", "the slices have no common frame of reference")
    if len(structures) > 255:
        raise DataError("Expected at most 255 structures in a segmentation.", remedy="Write NIfTI masks instead.")


def _described(number: int, structure: Coded, algorithm: object) -> object:
    hd = require_highdicom()
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=dicom_text(structure.name) or f"structure {number}",
        segmented_property_category=concept(structure.category),
        segmented_property_type=concept(structure.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        display_color=hd.color.CIELabColor.from_rgb(*COLOURS[(number - 1) % len(COLOURS)]),
    )


def _measures(instances: Sequence[Instance]) -> object:
    """Return spacing and thickness; the distance between slices comes from their positions, which headers often contradict."""
    first = instances[0]
    between = None
    if len(instances) > 1:
        normal = np.cross(first.orientation[:3], first.orientation[3:])
        ends = [float(normal @ np.array(instance.position)) for instance in (instances[0], instances[-1])]
        between = abs(ends[1] - ends[0]) / (len(instances) - 1)
    thickness = first.thickness_mm or between or 1.0
    return require_highdicom().PixelMeasuresSequence(
        pixel_spacing=list(first.spacing_mm), slice_thickness=thickness, spacing_between_slices=between
    )
