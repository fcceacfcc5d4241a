"""Phantom pictures of a rare finding among many normal ones, whose share differs strongly between five hospitals."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from salus.simulations.phantoms import draw

CLASSES = ("normal", "common", "rare")  # nothing, a wide disk, a small disk
SIZES = (0.4, 0.25, 0.15, 0.12, 0.08)  # of the patients, by hospital
# By hospital, of its patients with the common and the rare finding: two hospitals hold nearly all rare ones.
SHARES = ((0.12, 0.0025), (0.05, 0.005), (0.3, 0.01), (0.1, 0.1), (0.02, 0.15))
RADII = {"common": (0.22, 0.3), "rare": (0.12, 0.18)}
CONTRAST = 650.0
NOISE = 110.0
TWELVE_BITS = 4095


def write_imbalance(folder: Path, patients: int, seed: int, side: int) -> Path:
    """Write one PNG for each patient and ``labels.csv`` with a column ``group``, the hospital; return the folder.

    Args:
        side: side length of a picture, in pixels.

    Guarantees: the same arguments write the same pictures.
    """
    rng = np.random.default_rng([seed, patients, side, 21])
    (folder / "images").mkdir()
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "PatientID", "label", "group"))
        for patient in range(patients):
            hospital = int(rng.choice(len(SIZES), p=SIZES))
            common, rare = SHARES[hospital]
            label = str(rng.choice(CLASSES, p=(1 - common - rare, common, rare)))
            picture = 2.0 * draw(rng, side, False, NOISE).astype(np.float64)
            if label in RADII:
                angle, reach, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.45), rng.uniform(*RADII[label])
                disk = (x - reach * np.cos(angle)) ** 2 + (y - reach * np.sin(angle)) ** 2 < radius**2
                picture += CONTRAST * disk
            name = f"images/phantom{patient:05d}.png"
            Image.fromarray(np.clip(picture / TWELVE_BITS * 255, 0, 255).astype(np.uint8)).save(folder / name)
            writer.writerow((name, f"PHANTOM-{patient:05d}", label, f"hospital-{hospital}"))
    return folder
