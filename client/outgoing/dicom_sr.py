"""Labels and volumes as DICOM structured reports: measurement reports of template TID 1500 (PS3.16)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from salus.client.data.dicom.instances import Instance, header_of, sources_of
from salus.client.outgoing.coding import Coded, dicom_text
from salus.client.outgoing.dicom_seg import SERIES_NUMBER
from salus.client.outgoing.highdicom_extra import concept, qualified, quiet, require_highdicom
from salus.client.outgoing.producer import MANUFACTURER, MARK, Producer
from salus.common.codes import Code
from salus.common.errors import DataError, UnreadableImage
from salus.common.files import write_whole

COMMENT = Code(scheme="DCM", value="121106", meaning="Comment")
WARNING = f"{MARK} only. Made by a model without a person's review; not for diagnosis or treatment."
DEVICE = Code(scheme="DCM", value="121007", meaning="Device")
IMAGING = Code(scheme="SCT", value="363679005", meaning="Imaging")
PROBABILITY = Code(scheme="DCM", value="122157", meaning="Probability")
VOLUME = Code(scheme="SCT", value="118565006", meaning="Volume")
NO_UNITS = Code(scheme="UCUM", value="1", meaning="no units")
MILLILITRES = Code(scheme="UCUM", value="ml", meaning="ml")


def write_label_report(
    path: Path,
    instances: Sequence[Instance],
    numbers: Mapping[str, float],
    classes: Sequence[Coded],
    producer: Producer,
    *,
    finding: str = "",
    probable: bool = True,
) -> str:
    """Write a report of what is said about an image, completely or not at all, and return its SOPInstanceUID.

    Args:
        instances: the source images, of one series.
        numbers: by the classes' names: probabilities, or predicted numbers.
        classes: in the job's order.
        finding: the class that is found; empty if there is none, or several.
        probable: whether the numbers are probabilities.

    Raises:
        ConfigError: highdicom is not installed.
        DataError: other classes, or probabilities outside 0 to 1.
        UnreadableImage: images with a header that the standard's writer does not take.
    """
    limits = (0.0, 1.0) if probable else (-1e15, 1e15)
    if set(numbers) != {one.name for one in classes} or not all(limits[0] <= n <= limits[1] for n in numbers.values()):
        raise DataError(
            "Expected a number for every class, and probabilities from 0 to 1.",
            remedy="Use the job that trained the model.",
        )
    hd = require_highdicom()
    images = [hd.sr.SourceImageForMeasurementGroup(one.sop_class_uid, one.sop_instance_uid) for one in instances]
    derivation = concept(PROBABILITY) if probable else None
    values = [
        hd.sr.Measurement(concept(one.type), round(numbers[one.name], 6), concept(NO_UNITS), derivation=derivation)
        for one in classes
    ]
    found = [concept(one.type) for one in classes if one.name == finding]
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(producer, instances, "finding"),
        finding_type=found[0] if found else None,
        source_images=images,
        measurements=values,
    )
    return _write(path, instances, [group], producer, repr((finding, sorted(numbers.items()))))


def write_volume_report(
    path: Path,
    instances: Sequence[Instance],
    segmentation: Instance,
    volumes_ml: Mapping[str, float],
    structures: Sequence[Coded],
    producer: Producer,
) -> str:
    """Write a report of the volumes of a segmentation's structures and return its SOPInstanceUID; errors as above.

    Args:
        segmentation: as `dicom_seg.write_segmentation` returned it.
        volumes_ml: by the structures' names, in millilitres.
    """
    if set(volumes_ml) != {one.name for one in structures} or not all(0 <= v < 1e9 for v in volumes_ml.values()):
        raise DataError("Expected the volume of every structure.", remedy="Use the job that trained the model.")
    hd = require_highdicom()
    images = [hd.sr.SourceImageForSegmentation(one.sop_class_uid, one.sop_instance_uid) for one in instances]
    groups = []
    for number, one in enumerate(structures, start=1):
        value = hd.sr.Measurement(concept(VOLUME), round(volumes_ml[one.name], 6), concept(MILLILITRES))
        segment = hd.sr.ReferencedSegment(
            segmentation.sop_class_uid, segmentation.sop_instance_uid, number, source_images=images
        )
        groups.append(
            hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=_tracking(producer, instances, one.name),
                referenced_segment=segment,
                finding_type=concept(one.type),
                measurements=[value],
            )
        )
    return _write(path, [*instances, segmentation], groups, producer, repr(sorted(volumes_ml.items())))


def _tracking(producer: Producer, instances: Sequence[Instance], what: str) -> Any:
    uid = producer.uid("tracking", instances[0].sop_instance_uid, what)
    return require_highdicom().sr.TrackingIdentifier(uid=uid, identifier=dicom_text(what) or "structure")


def _write(path: Path, evidence: Sequence[Instance], groups: Sequence[Any], producer: Producer, content: str) -> str:
    hd = require_highdicom()
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=producer.uid("device"),
        name=producer.job,
        manufacturer_name=MANUFACTURER,
        model_name=producer.model_sha256[:16],
    )
    observer = hd.sr.ObserverContext(concept(DEVICE), device)
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=concept(IMAGING),
        imaging_measurements=groups,
    )
    report[0].ContentSequence.append(
        hd.sr.TextContentItem(
            name=concept(COMMENT), value=WARNING, relationship_type=hd.sr.RelationshipTypeValues.CONTAINS
        )
    )
    uid = producer.uid("report", sources_of(evidence), producer.content(content.encode()))
    try:
        with quiet():
            written = _object(evidence, report[0], producer, uid)
    except ValueError:  # a date that is none, for example
        raise UnreadableImage("no-report", "a report about an image with this header cannot be written") from None
    write_whole(path, qualified(written, evidence[0]))
    return uid


def _object(evidence: Sequence[Instance], content: Any, producer: Producer, uid: str) -> Any:
    return require_highdicom().sr.ComprehensiveSR(
        evidence=[header_of(one) for one in evidence],
        content=content,
        series_instance_uid=producer.uid("series", uid),
        series_number=SERIES_NUMBER + 1,
        sop_instance_uid=uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=producer.job,
        software_versions=producer.version,
        series_description=producer.title("Measurements"),
        is_complete=True,
    )
