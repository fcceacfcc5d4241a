"""Source series for the tests of what is written; each pixel's value names its slice, row and column."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset
from tests.client.data.dicom_files import make

from salus.client.data.dicom.display import Window
from salus.client.data.dicom.picture import read_image
from salus.client.data.dicom.volumes import stack
from salus.client.outgoing.producer import Producer

PRODUCER = Producer("lesions", "ab" * 32, "0.1.0")
ROWS, COLUMNS = 6, 8
SPACING = (0.7, 0.9)
ORIENTATIONS = {
    "axial": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "axial, feet first": (1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    "coronal": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
    "sagittal": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
    "oblique": (0.96, 0.28, 0.0, -0.28, 0.96, 0.0),
}
ORIGIN = np.array([-20.0, 30.0, 5.0])


def series(orientation: str = "axial", places: tuple[float, ...] = (0, 3, 6, 9, 12), **more: Any) -> list[FileDataset]:
    """Return the slices of a series at these places along the normal, in millimetres."""
    directions = ORIENTATIONS[orientation]
    normal = np.cross(directions[:3], directions[3:])
    grid = 10 * np.arange(ROWS)[:, None] + np.arange(COLUMNS)
    return [
        make(
            (100 * number + grid).astype(np.int16),
            PixelSpacing=list(SPACING),
            ImageOrientationPatient=list(directions),
            ImagePositionPatient=[float(v) for v in ORIGIN + normal * place],
            SOPInstanceUID=f"1.2.3.4.{number + 1}",
            InstanceNumber=number + 1,
            **{
                "FrameOfReferenceUID": "1.2.9",
                "PatientName": "Doe^Jane",
                "RescaleIntercept": 0,
                "RescaleSlope": 1,
                **more,
            },
        )
        for number, place in enumerate(places)
    ]


def volume(slices: list[FileDataset]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel values as a volume ``[z, y, x]`` as a source reads it, and its affine from an index (z, y, x)."""
    images = []
    for dataset in slices:
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        image = read_image(buffer.getvalue(), "a slice")
        images.append(replace(image, values=image.intensities, window=Window("LINEAR_EXACT", 0.5, 1.0)))
    made = stack(images)
    return made.values.round().astype(np.int64), made.affine @ np.eye(4)[[2, 1, 0, 3]]


def position(dataset: FileDataset, row: int, column: int) -> np.ndarray:
    """Return where a pixel is by the standard's own formula (PS3.3, C.7.6.2.1.1), in millimetres, LPS."""
    directions = np.array(dataset.ImageOrientationPatient, float)
    rows_mm, columns_mm = (float(side) for side in dataset.PixelSpacing)
    corner = np.array(dataset.ImagePositionPatient, float)
    return corner + directions[:3] * columns_mm * column + directions[3:] * rows_mm * row
