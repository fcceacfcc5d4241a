"""Phantom pictures with several findings each, for recognition with more than one label. Everything is invented."""

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from salus.simulations.phantoms import draw

FINDINGS = ("mass", "cavity", "device")  # a bright disk, a dark disk, a bright bar
NONE = "No Finding"  # as in the labels of ChestX-ray14
PREVALENCE = 0.35
NOISE = 50.0
CONTRAST = 700.0
TWELVE_BITS = 4095


def write_findings(folder: Path, patients: int, seed: int, side: int) -> Path:
    """Write one PNG for each patient and ``labels.csv``, whose labels are separated by ``|``; return the folder.

    Args:
        side: side length of a picture, in pixels.

    Guarantees: the same arguments write the same pictures.
    """
    rng = np.random.default_rng([seed, patients, side, 4])
    (folder / "images").mkdir()
    rows = []
    for patient in range(patients):
        present = [name for name in FINDINGS if rng.random() < PREVALENCE]
        values = np.clip(draw_findings(rng, side, present) / TWELVE_BITS * 255, 0, 255).astype(np.uint8)
        name = f"images/phantom{patient:04d}.png"
        Image.fromarray(values).save(folder / name)
        rows.append((name, f"PHANTOM-{patient:04d}", "|".join(present) or NONE))
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "PatientID", "label"))
        writer.writerows(rows)
    return folder


def draw_findings(rng: np.random.Generator, side: int, present: list[str]) -> npt.NDArray[np.float64]:
    """Return a 12-bit picture ``[side, side]`` of an ellipse with these findings inside."""
    picture = 2.0 * draw(rng, side, False, NOISE).astype(np.float64)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    for name in present:
        angle, reach, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.45), rng.uniform(0.15, 0.25)
        across, along = x - reach * np.cos(angle), y - reach * np.sin(angle)
        if name == "device":
            picture += 2 * CONTRAST * ((np.abs(across) < 0.06) & (np.abs(along) < 0.4))
        else:
            disk = across**2 + along**2 < radius**2
            picture += (CONTRAST if name == "mass" else -CONTRAST) * disk
    return picture
