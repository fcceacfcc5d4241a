"""Phantom patients who are followed: the brighter the disk in a picture, the earlier the event; some are lost before."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

MEAN_DAYS, LOST_DAYS = 900.0, 1800.0


def write_survival(folder: Path, patients: int, seed: int, side: int) -> Path:
    """Write pictures and ``labels.csv`` with a time and an event to an existing folder, and return it.

    Guarantees: the same arguments write the same patients.
    """
    rng = np.random.default_rng([seed, patients, side, 15])
    (folder / "images").mkdir()
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "PatientID", "days", "event"))
        for number in range(patients):
            risk = rng.normal(0, 1)
            disk = (x - rng.uniform(-0.3, 0.3)) ** 2 + (y - rng.uniform(-0.3, 0.3)) ** 2 < 0.2
            values = np.clip(100 + 35 * risk * disk + rng.normal(0, 12, (side, side)), 0, 255)
            name = f"images/patient{number:04d}.png"
            Image.fromarray(values.astype(np.uint8)).save(folder / name)
            time, lost = rng.exponential(MEAN_DAYS * np.exp(-risk)), rng.exponential(LOST_DAYS)
            writer.writerow((name, f"PHANTOM-{number:04d}", f"{min(time, lost):.0f}", int(time <= lost)))
    return folder
