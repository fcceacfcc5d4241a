"""Writes enhanced multi-frame objects, for tests."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from tests.client.data.dicom_files import make

from salus.client.data.dicom.kinds import STORAGE

GROUPS = {
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "WindowCenter": "FrameVOILUTSequence",
    "WindowWidth": "FrameVOILUTSequence",
    "VOILUTFunction": "FrameVOILUTSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "FrameComments": "FrameContentSequence",
    "FrameType": "MRImageFrameTypeSequence",
    "NominalPercentageOfCardiacPhase": "CardiacSynchronizationSequence",
}


def item(values: Mapping[str, Any]) -> Dataset:
    """Return one item of functional groups with these elements."""
    found = Dataset()
    for keyword, value in values.items():
        group = GROUPS[keyword]
        if group not in found:
            setattr(found, group, [Dataset()])
        setattr(found[group].value[0], keyword, value)
    return found


def enhanced(
    pixels: np.ndarray, frames: Sequence[Mapping[str, Any]], shared: Mapping[str, Any], **attributes: Any
) -> FileDataset:
    """Return an enhanced MR object.

    Args:
        pixels: ``[frames, rows, columns]``.
        frames: elements of each frame, by their keywords.
        shared: elements of all of them.
    """
    dataset = make(pixels, **{"SOPClassUID": STORAGE + "4.1", "Modality": "MR", **attributes})
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.NumberOfFrames = len(pixels)
    dataset.SharedFunctionalGroupsSequence = [item(shared)]
    dataset.PerFrameFunctionalGroupsSequence = [item(values) for values in frames]
    return dataset


def as_bytes(dataset: FileDataset) -> bytes:
    """Return the file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
