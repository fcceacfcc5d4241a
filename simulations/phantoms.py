"""Phantom hospitals: synthetic patients as real DICOM files. Everything is invented; there are no data of real persons.

Each hospital has its own vendor, pixel spacing, window, photometric interpretation, prevalence and noise, as real ones do.
The signal is a disk-shaped lesion in a body-shaped background. Every image says ``PHANTOM`` where a name would be.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

CLASSES = ("healthy", "lesion")
SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")
DIGITAL_XRAY = UID("1.2.840.10008.5.1.4.1.1.1.1")
UID_ROOT = "2.25."
BODY, LESION, AIR = 900.0, 420.0, 60.0


@dataclass(frozen=True)
class Hospital:
    """The imaging of one phantom hospital.

    Args:
        spacing_mm: pixel spacing.
        window: window centre and width in its files.
        inverted: MONOCHROME1, in which small values are bright.
        prevalence: share of patients with a lesion.
        noise: standard deviation of the pixel noise.
        damaged: number of truncated or garbage files, as in every archive.
        contrast: of a lesion, as a factor.
        most_studies, most_images: of a patient, and of a study.
        gain, gamma, offset: the detector's response: ``offset + 4095 gain (x / 4095) ^ gamma``.
    """

    name: str
    vendor: str
    spacing_mm: float
    window: tuple[float, float]
    inverted: bool
    prevalence: float
    noise: float
    patients: int
    damaged: int = 2
    gain: float = 1.0
    gamma: float = 1.0
    offset: float = 0.0
    contrast: float = 1.0
    most_studies: int = 3
    most_images: int = 2


HOSPITALS = (
    Hospital("North Phantom Hospital", "PhantomA Imaging", 0.8, (600, 1200), False, 0.5, 60, 60),
    Hospital("River Phantom Clinic", "PhantomB Imaging", 1.0, (700, 1400), True, 0.35, 80, 44),
    Hospital("Hill Phantom Infirmary", "PhantomC Imaging", 0.6, (550, 1000), False, 0.6, 100, 52),
    Hospital("Lake Phantom Centre", "PhantomA Imaging", 0.9, (650, 1300), False, 0.25, 70, 36, damaged=3),
    Hospital("Harbour Phantom Hospital", "PhantomD Imaging", 1.2, (800, 1600), True, 0.45, 90, 48),
    Hospital("Forest Phantom Hospital", "PhantomB Imaging", 0.7, (600, 1100), False, 0.5, 75, 40),
    Hospital("Garden Phantom Clinic", "PhantomC Imaging", 1.1, (620, 1250), True, 0.4, 85, 40),
    Hospital("Harvest Phantom Infirmary", "PhantomD Imaging", 0.75, (640, 1280), False, 0.55, 65, 40),
)

CLEAR, WIDE = 3.5, 2.4  # contrast and window that let a small network learn in a minute, with differential privacy
# Four times the patients with one image each: what a noised job needs. The demo's and the sample data sets'.
DEMO_HOSPITALS = tuple(
    replace(
        hospital,
        patients=4 * hospital.patients,
        contrast=CLEAR,
        window=(WIDE * hospital.window[0], WIDE * hospital.window[1]),
        most_studies=1,
        most_images=1,
    )
    for hospital in HOSPITALS
)


# Vendors whose detectors differ as strongly as uncalibrated ones; one window for all, so that only the pixel values differ.
SHIFTED_HOSPITALS = tuple(
    Hospital(
        f"Shifted Hospital {vendor}",
        f"Phantom{vendor} Imaging",
        1.0,
        (2048, 4096),
        False,
        prevalence,
        noise,
        50,
        0,
        *response,
    )
    for vendor, prevalence, noise, response in (
        ("A", 0.5, 70, (1.0, 1.0, 0.0)),
        ("B", 0.3, 80, (0.35, 0.7, 1500.0)),
        ("C", 0.6, 70, (2.2, 1.4, 200.0)),
        ("D", 0.4, 80, (0.5, 1.5, 2600.0)),
        ("E", 0.7, 75, (1.4, 0.6, 700.0)),
    )
)


def write_consortium(root: Path, hospitals: Sequence[Hospital], seed: int, side: int = 32) -> Path:
    """Write several hospitals to one folder with one ``labels.csv``; each patient is at one hospital. Returns the folder."""
    rows: list[dict[str, str]] = []
    for number, hospital in enumerate(hospitals):
        folder = root / f"hospital{number}"
        write_hospital(folder, hospital, 1000 * seed + number, side, prefix=f"{number}-")
        with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
        (folder / "labels.csv").unlink()
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("StudyInstanceUID", "label"))
        writer.writeheader()
        writer.writerows(rows)
    return root


def write_hospital(folder: Path, hospital: Hospital, seed: int, side: int = 64, prefix: str = "") -> int:
    """Write a hospital's DICOM files and ``labels.csv`` (by StudyInstanceUID) and return the number of readable files.

    Guarantees: the same arguments write the same pixels; several studies and images per patient; `hospital.damaged` files
    that cannot be read.
    """
    rng = np.random.default_rng([seed, len(hospital.name), hospital.patients])
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str]] = []
    written = 0
    last = folder
    for patient in range(hospital.patients):
        sick = bool(rng.random() < hospital.prevalence)
        for study in range(int(rng.integers(1, hospital.most_studies + 1))):
            study_uid = _uid(rng)
            rows.append((study_uid, CLASSES[int(sick)]))
            for image in range(int(rng.integers(1, hospital.most_images + 1))):
                pixels = detected(draw(rng, side, sick, hospital.noise, hospital.contrast), hospital)
                last = folder / f"patient{patient:03d}" / f"study{study}" / f"image{image}.dcm"
                last.parent.mkdir(parents=True, exist_ok=True)
                _dataset(hospital, f"{prefix}{patient:04d}", study_uid, image, pixels, rng).save_as(
                    last, enforce_file_format=True
                )
                written += 1
    _damage(folder, last, hospital.damaged, rng)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("StudyInstanceUID", "label"))
        writer.writerows(rows)
    return written


def draw(
    rng: np.random.Generator, side: int, sick: bool, noise: float, contrast: float = 1.0
) -> npt.NDArray[np.uint16]:
    """Return a 12-bit image ``[side, side]`` of an ellipse, with a brighter disk inside it if `sick`."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    a, b = rng.uniform(0.65, 0.9, size=2)
    body = (x / a) ** 2 + (y / b) ** 2 < 1
    image = np.where(body, BODY * rng.uniform(0.7, 1.0), AIR)
    image += 80 * np.sin(x * rng.uniform(3, 8) + rng.uniform(0, 6)) * body
    if sick:
        angle, reach, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.45), rng.uniform(0.12, 0.22)
        disk = (x - reach * np.cos(angle)) ** 2 + (y - reach * np.sin(angle)) ** 2 < radius**2
        image += LESION * contrast * disk
    image += rng.normal(0, noise, image.shape)
    return np.clip(image, 0, 4095).astype(np.uint16)


def detected(pixels: npt.NDArray[np.uint16], hospital: Hospital) -> npt.NDArray[np.uint16]:
    """Return an image as a hospital's detector would record it."""
    if (hospital.gain, hospital.gamma, hospital.offset) == (1.0, 1.0, 0.0):
        return pixels
    bent = 4095 * hospital.gain * (pixels / 4095.0) ** hospital.gamma + hospital.offset
    return np.clip(bent, 0, 4095).astype(np.uint16)


def _uid(rng: np.random.Generator) -> str:
    return UID_ROOT + str(int(rng.integers(1, 2**63)))


def _dataset(
    hospital: Hospital,
    patient: str,
    study_uid: str,
    image: int,
    pixels: npt.NDArray[np.uint16],
    rng: np.random.Generator,
) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DIGITAL_XRAY
    meta.MediaStorageSOPInstanceUID = UID(_uid(rng))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PatientID, dataset.PatientName = f"PHANTOM-{patient}", "PHANTOM^Nobody"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, _uid(rng)
    dataset.Modality, dataset.Manufacturer, dataset.InstitutionName = "DX", hospital.vendor, hospital.name
    dataset.InstanceNumber, dataset.StudyDate = image + 1, "20260101"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.ImagerPixelSpacing = [hospital.spacing_mm, hospital.spacing_mm]
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    centre, width = hospital.window
    stored = pixels
    if hospital.inverted:
        dataset.PhotometricInterpretation = "MONOCHROME1"
        stored = (4095 - pixels).astype(np.uint16)
        centre = 4095 - centre
    else:
        dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.WindowCenter, dataset.WindowWidth = centre, width
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def _damage(folder: Path, sample: Path, count: int, rng: np.random.Generator) -> None:
    """Add truncated and garbage files."""
    for number in range(count):
        path = folder / f"damaged{number}.dcm"
        if number % 2 == 0:
            data = sample.read_bytes()
            path.write_bytes(data[: len(data) - len(data) // 3])
        else:
            path.write_bytes(rng.bytes(2000))


def is_phantom(path: Path) -> bool:
    """Return whether a file is marked as a phantom."""
    return str(pydicom.dcmread(path, stop_before_pixels=True).PatientID).startswith("PHANTOM-")
