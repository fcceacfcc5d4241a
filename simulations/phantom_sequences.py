"""Phantom patients with several pictures each: visits whose order matters, and bags of which one picture may show a lesion.

Every picture of a growing lesion could be one of a shrinking lesion as well: only their order tells the classes apart.
"""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from salus.simulations.phantoms import CLASSES, CLEAR, draw

COURSES = ("shrinking", "growing")
VISITS = (3, 6)  # fewest and most visits of a patient
PICTURES = (3, 8)  # fewest and most pictures in a bag
RADII = (0.15, 0.55)  # of the lesion at the ends of its course, as a share of half a picture
TEST_SHARE = 5  # every fifth patient is one of the test split
Picture = npt.NDArray[np.uint8]
Row = tuple[Picture, int, str, str]  # a picture, the number of its patient, its label and its split


def write_visits(folder: Path, patients: int, seed: int, side: int) -> Path:
    """Write the visits of patients and ``labels.csv``, in which a patient's visits have their order; return the folder.

    Args:
        side: side length of a picture, in pixels.

    Guarantees: the same arguments write the same pictures; half of the patients are of each class.
    """
    rng = np.random.default_rng([seed, patients, side, 15])
    return _write(folder, (row for patient in range(patients) for row in _visits(rng, patient, side)))


def write_bags(folder: Path, patients: int, seed: int, side: int) -> Path:
    """Write bags of pictures and ``labels.csv`` with each picture's own label; return the folder. As `write_visits`."""
    rng = np.random.default_rng([seed, patients, side, 16])
    return _write(folder, (row for patient in range(patients) for row in _bag(rng, patient, side)))


def _visits(rng: np.random.Generator, patient: int, side: int) -> Iterable[Row]:
    growing = patient % 2
    radii = np.linspace(*RADII, int(rng.integers(VISITS[0], VISITS[1] + 1)))
    radii *= rng.uniform(0.9, 1.1)
    place = rng.uniform(-0.2, 0.2, 2)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    for radius in radii if growing else radii[::-1]:
        disk = (x - place[0]) ** 2 + (y - place[1]) ** 2 < radius**2
        values = 90 + 80 * disk + rng.normal(0, 15, (side, side))
        yield _bytes(values), patient, COURSES[growing], _split(patient)


def _bag(rng: np.random.Generator, patient: int, side: int) -> Iterable[Row]:
    count = int(rng.integers(PICTURES[0], PICTURES[1] + 1))
    with_lesion = int(rng.integers(count)) if patient % 2 else -1
    for place in range(count):
        sick = place == with_lesion
        values = draw(rng, side, sick, 50.0, CLEAR) / 2880.0 * 255
        yield _bytes(values), patient, CLASSES[int(sick)], _split(patient)


def _split(patient: int) -> str:
    return "test" if patient // 2 % TEST_SHARE == 0 else "train"  # two neighbours are of both classes


def _bytes(values: npt.NDArray[np.float64]) -> Picture:
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def _write(folder: Path, rows: Iterable[Row]) -> Path:
    (folder / "images").mkdir()
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "PatientID", "label", "split"))
        for number, (picture, patient, label, split) in enumerate(rows):
            name = f"images/picture{number:05d}.png"  # in the order of the visits
            Image.fromarray(picture).save(folder / name)
            writer.writerow((name, f"PHANTOM-{patient:04d}", label, split))
    return folder
