"""Small synthetic data sets for every import format: MedMNIST arrays, DICOM folders and NIfTI volumes, also with masks.

All of them are phantoms (see `phantoms`), without data of real persons. They need no download and no permission.

    npz      phantoms.npz            train, val and test images ``[n, side, side]``, one patient each
    dicom    hospital0 ... , labels.csv     several studies and images a patient, one folder a hospital
    nifti    images, masks, labels.csv      one volume a patient, with a mask of its lesion
    masks    imagesTr, labelsTr, dataset.json      one volume a patient, with a mask of two structures
    findings images, labels.csv      one picture a patient, with any number of three findings
    fusion   images, labels.csv      one picture a patient, with blood values and a report, from five hospitals
    visits   images, labels.csv      several pictures a patient, of a lesion that grows or shrinks
    bags     images, labels.csv      several pictures a patient, of which one may show a lesion
    survival images, labels.csv      one picture a patient, with days until an event or until the patient was lost
    cells    images, masks     one picture a patient, with a mask that numbers touching and overlapping cells
    clips    images, masks     one clip a patient, with a mask that numbers cells which move, cross and hide each other
    boxes    JPEGImages, Annotations, ImageSets      one picture a patient, with boxes around objects of two sizes
    lesions  images, Annotations, labels.csv     one picture a patient, with a lesion at a known place, for explanations
    imbalance images, labels.csv     one picture a patient, with a rare and a common finding, from five unlike hospitals
"""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from salus.common.errors import ConfigError
from salus.simulations.phantom_boxes import write_boxes
from salus.simulations.phantom_cells import write_cells, write_clips
from salus.simulations.phantom_findings import write_findings
from salus.simulations.phantom_fusion import write_fusion
from salus.simulations.phantom_imbalance import write_imbalance
from salus.simulations.phantom_lesions import write_lesions
from salus.simulations.phantom_masks import write_structures
from salus.simulations.phantom_sequences import write_bags, write_visits
from salus.simulations.phantom_survival import write_survival
from salus.simulations.phantoms import AIR, BODY, CLASSES, CLEAR, DEMO_HOSPITALS, LESION, draw, write_consortium

# For one family of tasks each, and not written unless they are asked for: (folder, patients, seed, side) -> folder.
FURTHER: Mapping[str, Callable[[Path, int, int, int], Path]] = {
    "masks": write_structures,
    "findings": write_findings,
    "fusion": write_fusion,
    "visits": write_visits,
    "bags": write_bags,
    "survival": write_survival,
    "cells": write_cells,
    "clips": write_clips,
    "boxes": write_boxes,
    "imbalance": write_imbalance,
    "lesions": write_lesions,
}
USUAL = ("npz", "dicom", "nifti")
KINDS = (*USUAL, *FURTHER)
NOISE = 70.0
SPLITS = (("train", 0.7), ("val", 0.1), ("test", 0.2))  # shares of the patients
VOXEL_MM = (1.5, 1.5, 3.0)


def write_samples(folder: Path, kinds: tuple[str, ...], *, patients: int, seed: int, side: int) -> dict[str, Path]:
    """Write data sets of these kinds to `folder` and return the path of each.

    Args:
        patients: number of patients in each set but DICOM's; the DICOM set has those of `phantoms.DEMO_HOSPITALS`.
        side: side length of an image, in pixels.

    Guarantees: the same arguments write the same images.

    Raises:
        ConfigError: an unknown kind, or a folder that is not empty.
    """
    wrong = [kind for kind in kinds if kind not in KINDS]
    if wrong:
        raise ConfigError(f"Expected one of the kinds {', '.join(KINDS)}, got {wrong[0]!r}.", remedy="Correct --kind.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"The folder {folder.name!r} is not empty.", remedy="Choose a new or empty folder.")
    writers = {"npz": _write_npz, "nifti": _write_nifti, **FURTHER}
    written: dict[str, Path] = {}
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
        if kind == "dicom":
            written[kind] = write_consortium(folder / kind, DEMO_HOSPITALS[:5], seed, side)
        else:
            written[kind] = writers[kind](folder / kind, patients, seed, side)
    return written


def _write_npz(folder: Path, patients: int, seed: int, side: int) -> Path:
    rng = np.random.default_rng([seed, patients, side])
    arrays: dict[str, npt.NDArray[np.uint8]] = {}
    for split, share in SPLITS:
        count = max(2, round(patients * share))
        labels = (np.arange(count) % 2).astype(np.uint8)  # both classes in every split
        rng.shuffle(labels)
        images = [draw(rng, side, bool(label), NOISE, CLEAR) for label in labels]
        arrays[f"{split}_images"] = (np.clip(np.stack(images) / 2880.0, 0, 1) * 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None]
    path = folder / "phantoms.npz"
    np.savez_compressed(path, allow_pickle=False, **arrays)
    return path


def _write_nifti(folder: Path, patients: int, seed: int, side: int) -> Path:
    rng = np.random.default_rng([seed, patients, side, 3])
    for name in ("images", "masks"):
        (folder / name).mkdir()
    rows = []
    affine = np.diag([*VOXEL_MM, 1.0])
    for patient in range(patients):
        sick = patient % 2 == 1
        values, mask = draw_volume(rng, (side, side, max(8, side // 4)), sick)
        name = f"phantom{patient:04d}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(values, affine), folder / "images" / name)  # type: ignore[no-untyped-call]
        nibabel.save(nibabel.Nifti1Image(mask, affine), folder / "masks" / name)  # type: ignore[no-untyped-call]
        rows.append((f"images/{name}", f"PHANTOM-{patient:04d}", CLASSES[int(sick)]))
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "PatientID", "label"))
        writer.writerows(rows)
    return folder


def draw_volume(
    rng: np.random.Generator, shape: tuple[int, int, int], sick: bool
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """Return a 12-bit volume of an ellipsoid, with a brighter ball inside it if `sick`, and the mask of the ball."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    a, b, c = rng.uniform(0.65, 0.9, size=3)
    body = (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < 1
    values = np.where(body, BODY * rng.uniform(0.7, 1.0), AIR)
    mask = np.zeros(shape, dtype=np.uint8)
    if sick:
        centre, radius = rng.uniform(-0.35, 0.35, size=3), rng.uniform(0.15, 0.25)
        ball = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < radius**2
        mask[ball & body] = 1
        values = values + LESION * CLEAR * mask
    values = values + rng.normal(0, NOISE, shape)
    return np.clip(values, 0, 4095).astype(np.int16), mask
