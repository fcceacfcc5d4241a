"""Small series with segmentations and structure sets of exactly known shape, for tests."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from tests.client.data.dicom_files import make

SPACING, STEP = (2.0, 1.5), 4.0  # rows, columns; slices
AXIAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)
TILTED = (1, 0, 0, 0, 0.8, 0.6)
SHAPE = (5, 8, 10)  # slices, rows, columns


def series(
    folder: Path,
    shape: tuple[int, int, int] = SHAPE,
    axes: Sequence[float] = AXIAL,
    patient: str = "P1",
    corner: Sequence[float] = (-7.0, 11.0, 30.0),
    **attributes: Any,
) -> list[pydicom.Dataset]:
    """Write a CT series of slices along its normal, and return it."""
    study, uid, frame = generate_uid(), generate_uid(), generate_uid()
    normal = np.cross(axes[:3], axes[3:])
    slices = []
    for number in range(shape[0]):
        pixels = np.random.default_rng(number).integers(0, 1000, size=shape[1:]).astype(np.uint16)
        values: dict[str, Any] = {
            "StudyInstanceUID": study, "PatientID": patient, "SeriesInstanceUID": uid, "SOPInstanceUID": generate_uid(),
            "FrameOfReferenceUID": frame, "PixelSpacing": list(SPACING), "SliceThickness": STEP,
            "ImagePositionPatient": [float(value) for value in np.array(corner) + normal * STEP * number],
            "ImageOrientationPatient": list(axes), "InstanceNumber": number + 1, "StudyID": "", "StudyDate": "20200101",
            "StudyTime": "", "AccessionNumber": "", "PatientName": "", "PatientSex": "", "PatientBirthDate": "",
            "ReferringPhysicianName": "", "SeriesNumber": 1,
        }  # fmt: skip
        dataset = make(pixels, **values | attributes)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        folder.mkdir(parents=True, exist_ok=True)
        dataset.save_as(folder / f"{uid[-6:]}-{number:02d}.dcm", enforce_file_format=True)
        slices.append(dataset)
    return slices


def segmentation(
    slices: list[pydicom.Dataset], masks: Mapping[str, np.ndarray], kind: str = "BINARY", **options: Any
) -> pydicom.Dataset:
    """Return a SEG of ``[slices, rows, columns]`` masks by label: bool, fractions 0 .. 1, or for a label map disjoint."""
    types = hd.seg.SegmentationTypeValues
    descriptions = [
        hd.seg.SegmentDescription(
            number, name, codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion,
            hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(masks, start=1)
    ]  # fmt: skip
    if kind == "LABELMAP":
        pixels = sum(number * mask.astype(np.uint8) for number, mask in enumerate(masks.values(), start=1))
    else:
        pixels = np.stack(list(masks.values()), axis=-1).astype(np.float64 if kind == "FRACTIONAL" else np.uint8)
    return hd.seg.Segmentation(
        slices, pixels, types[kind], descriptions, hd.UID(), 2, hd.UID(), 1, "m", "m", "1", "1", **options,
    )  # fmt: skip


def saved(dataset: pydicom.Dataset, path: Path) -> Path:
    """Write an object to a file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    path.write_bytes(buffer.getvalue())
    return path


def to_mm(image: pydicom.Dataset, points: np.ndarray) -> np.ndarray:
    """Return (row, column) points of one slice in millimetres."""
    axes = np.array(image.ImageOrientationPatient, float)
    steps = points[:, :1] * SPACING[0] * axes[3:] + points[:, 1:] * SPACING[1] * axes[:3]
    return steps + np.array(image.ImagePositionPatient, float)


def structure_set(slices: list[pydicom.Dataset], contours: Mapping[str, Mapping[int, list[np.ndarray]]]) -> FileDataset:
    """Return an RTSTRUCT: by structure and slice, polygons of (row, column) points."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    first = slices[0]
    result.SOPClassUID, result.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    result.PatientID, result.StudyInstanceUID = first.PatientID, first.StudyInstanceUID
    result.SeriesInstanceUID, result.Modality, result.StructureSetLabel = generate_uid(), "RTSTRUCT", "x"
    images = [referenced(image) for image in slices]
    inner = nested(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
    study = nested(ReferencedSOPInstanceUID=first.StudyInstanceUID, RTReferencedSeriesSequence=[inner])
    frame = nested(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    result.ReferencedFrameOfReferenceSequence = [frame]
    result.StructureSetROISequence = [
        nested(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID)
        for number, name in enumerate(contours, start=1)
    ]
    result.ROIContourSequence = [
        nested(
            ReferencedROINumber=number,
            ContourSequence=[
                nested(
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(points),
                    ContourData=[f"{value:.6g}" for value in to_mm(slices[place], points).reshape(-1)],
                    ContourImageSequence=[referenced(slices[place])],
                )
                for place, polygons in planes.items()
                for points in polygons
            ],
        )
        for number, planes in enumerate(contours.values(), start=1)
    ]
    return result


def nested(**elements: Any) -> Dataset:
    """Return an item of a sequence."""
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return item


def referenced(image: pydicom.Dataset) -> Dataset:
    """Return a reference to an image."""
    return nested(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)
