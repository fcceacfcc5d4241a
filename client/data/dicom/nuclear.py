"""Reconstructed volumes of nuclear medicine (SPECT): where each of their frames lies (PS3.3 C.8.4.8, C.8.4.11 and C.8.4.15).

Such an object states one plane for each detector and says with vectors which slice, time slot or energy window a frame is. Slices
are stacked along the normal of the first one, with the sign of their spacing.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from pydicom.dataset import Dataset

from salus.client.data.dicom.numbers import (
    has,
    items_of,
    not_understood,
    number_of,
    numbers_of,
    rounded,
    safely,
    words_of,
)

RECONSTRUCTED = ("RECON TOMO", "RECON GATED TOMO")
# What each vector means for a plane; slices give its place.
VECTORS = {
    "TimeSlotVector": "TemporalPositionIndex",
    "TimeSliceVector": "TemporalPositionIndex",
    "PhaseVector": "FrameAcquisitionNumber",
    "EnergyWindowVector": "AcquisitionNumber",
    "RRIntervalVector": "FrameAcquisitionNumber",
}
SLICES, DETECTORS = "SliceVector", "DetectorInformationSequence"


def is_reconstructed(dataset: Dataset) -> bool:
    """Return whether an object is a volume of nuclear medicine that says where it lies."""
    words = words_of(dataset, "ImageType")
    if not any(word in RECONSTRUCTED for word in words) or has(dataset, "ImagePositionPatient"):
        return False
    return any(has(item, "ImagePositionPatient") for item in items_of(dataset, DETECTORS))


def planes_of(dataset: Dataset, count: int) -> list[Mapping[str, object]]:
    """Return the elements of each frame that a classic image would have.

    Args:
        count: of frames.

    Raises:
        UnreadableImage: ``not-understood``, with the element's name.
    """
    detectors = items_of(dataset, DETECTORS)
    if len(detectors) > 1 and len(set(_vector(dataset, "DetectorVector", count) or [1])) > 1:
        raise not_understood("DetectorVector", "names several detectors of one reconstruction")
    position = numbers_of(detectors[0], "ImagePositionPatient")
    axes = numbers_of(detectors[0], "ImageOrientationPatient")
    if len(axes) != 6 or len(position) != 3:
        raise not_understood(DETECTORS, "does not describe a plane")
    spacing = number_of(dataset, "SpacingBetweenSlices") or number_of(dataset, "SliceThickness")
    if not spacing and count > 1:
        raise not_understood("SpacingBetweenSlices", "is missing, so its slices cannot be placed")
    step = np.cross(axes[:3], axes[3:]) * (spacing or 1.0)
    slices = _vector(dataset, SLICES, count) or list(range(1, count + 1))
    others = {name: vector for name in VECTORS if (vector := _vector(dataset, name, count))}
    found: list[Mapping[str, object]] = []
    for number in range(count):
        place = np.array(position) + step * (slices[number] - 1)
        found.append(
            {
                "ImageOrientationPatient": list(axes),
                "ImagePositionPatient": [rounded(float(value)) for value in place],
                **{VECTORS[name]: vector[number] for name, vector in others.items()},
            }
        )
    return found


def _vector(dataset: Dataset, keyword: str, count: int) -> list[int]:
    """Return a vector's whole numbers, one of each frame; empty if there is none."""
    if not has(dataset, keyword):
        return []
    value = safely(lambda: dataset.get(keyword), None)
    parts = list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    numbers = [part for part in parts if isinstance(part, int) and 1 <= part < 2**16]
    if len(numbers) != count or len(parts) != count:
        raise not_understood(keyword, f"is not a whole number of each of {count} frames")
    return [int(number) for number in numbers]
