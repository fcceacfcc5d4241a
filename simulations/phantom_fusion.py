"""Phantom patients with a picture, a row of blood values and a short report, each of which tells a part of the illness.

The illness is the sum of three hidden parts of equal weight; the picture shows the first as the brightness of a disk, the row the
second as a marker, the report the third as words. One hospital writes no reports, and everywhere some patients lack the row.
"""

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

CLASSES = ("well", "ill")
SITES = 5
WITHOUT_REPORTS = "hospital-5"
NO_ROW = 0.1  # share of the patients without blood values
WORDS = {
    -1: ("clear", "normal", "unremarkable", "quiet"),
    0: ("stable", "unchanged", "moderate", "seen"),
    1: ("opacity", "effusion", "consolidation", "infiltrate"),
}
NOISE = 0.5  # standard deviation of what each modality adds to its part


def write_fusion(folder: Path, patients: int, seed: int, side: int) -> Path:
    """Write pictures and ``labels.csv`` with columns of blood values and reports to an existing folder, and return it.

    Guarantees: the same arguments write the same patients; every hospital has equally many.
    """
    rng = np.random.default_rng([seed, patients, side, 14])
    (folder / "images").mkdir()
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "PatientID", "label", "group", "split", "crp", "age", "report"))
        for number in range(patients):
            parts = rng.normal(0, 1, 3)
            name = f"images/patient{number:04d}.png"
            Image.fromarray(_picture(rng, side, parts[0] + rng.normal(0, NOISE))).save(folder / name)
            hospital = f"hospital-{number % SITES + 1}"
            crp = 20 + 10 * (parts[1] + rng.normal(0, NOISE))
            row = ("", "") if rng.random() < NO_ROW else (f"{crp:.2f}", str(int(rng.integers(30, 90))))
            report = "" if hospital == WITHOUT_REPORTS else _report(rng, parts[2] + rng.normal(0, NOISE))
            split = "test" if number % (5 * SITES) < SITES else "train"
            ill = parts.sum() + rng.normal(0, NOISE / 2) > 0
            writer.writerow((name, f"PHANTOM-{number:04d}", CLASSES[int(ill)], hospital, split, *row, report))
    return folder


def _picture(rng: np.random.Generator, side: int, part: float) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    centre = rng.uniform(-0.3, 0.3, 2)
    disk = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 0.2
    values = 110 + 30 * part * disk + rng.normal(0, 12, (side, side))
    picture: npt.NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
    return picture


def _report(rng: np.random.Generator, part: float) -> str:
    said = [int(np.clip(np.rint(part + rng.normal(0, 0.4)), -1, 1)) for _ in range(3)]
    return "Findings: " + " ".join(str(rng.choice(WORDS[one])) for one in said) + "."
