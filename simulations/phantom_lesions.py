"""Phantom pictures with a lesion at a known place, for explanations: labels, and boxes that are not trained on.

A lesion is a bright disk. Every picture, with and without a lesion, has a brighter bar as well, so that what only marks bright
places, as a network with random weights may, does not find the lesion. Everything is invented.
"""

import csv
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

from salus.simulations.phantom_findings import CONTRAST, NOISE, TWELVE_BITS
from salus.simulations.phantoms import CLASSES, draw

RADIUS = (0.15, 0.25)  # of half the picture's side
REACH = 0.45
BAR = (0.06, 0.4)  # half of its sides
CLEARANCE = 0.12  # between a lesion and the bar
LESION = CLASSES[1]


def write_lesions(folder: Path, patients: int, seed: int, side: int) -> Path:
    """Write one PNG for each patient, ``labels.csv``, and PASCAL VOC's boxes of the lesions; return the folder.

    Args:
        side: side length of a picture, in pixels.

    Guarantees: the same arguments write the same pictures.
    """
    rng = np.random.default_rng([seed, patients, side, 9])
    for name in ("images", "Annotations"):
        (folder / name).mkdir()
    rows = []
    for patient in range(patients):
        sick = patient % 2 == 1
        picture, box = draw_lesion(rng, side, sick)
        name = f"phantom{patient:04d}"
        values = np.clip(picture / TWELVE_BITS * 255, 0, 255).astype(np.uint8)
        Image.fromarray(values).save(folder / "images" / f"{name}.png")
        (folder / "Annotations" / f"{name}.xml").write_text(_voc(f"{name}.png", side, box), encoding="utf-8")
        rows.append((f"images/{name}.png", f"PHANTOM-{patient:04d}", CLASSES[int(sick)]))
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "PatientID", "label"))
        writer.writerows(rows)
    return folder


def draw_lesion(
    rng: np.random.Generator, side: int, sick: bool
) -> tuple[npt.NDArray[np.float64], tuple[int, int, int, int] | None]:
    """Return a 12-bit picture ``[side, side]`` and the box of its lesion: first and last row and column, None without one."""
    picture = 2.0 * draw(rng, side, False, NOISE).astype(np.float64)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    centre, radius = _place(rng), rng.uniform(*RADIUS)
    away, bar = radius + CLEARANCE, _place(rng)
    while abs(bar[0] - centre[0]) < away + BAR[0] and abs(bar[1] - centre[1]) < away + BAR[1]:
        bar = _place(rng)  # beside the lesion, never over it
    picture += 2 * CONTRAST * ((np.abs(x - bar[0]) < BAR[0]) & (np.abs(y - bar[1]) < BAR[1]))
    if not sick:
        return picture, None
    disk = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    rows, columns = np.nonzero(disk)
    return picture + CONTRAST * disk, (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max()))


def _place(rng: np.random.Generator) -> tuple[float, float]:
    angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0, REACH)
    return float(reach * np.cos(angle)), float(reach * np.sin(angle))


def _voc(name: str, side: int, box: tuple[int, int, int, int] | None) -> str:
    """Return PASCAL VOC's XML, whose pixels count from 1."""
    inside = ""
    if box is not None:
        top, bottom, left, right = (place + 1 for place in box)
        inside = (
            f"<object><name>{escape(LESION)}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        )
    size = f"<size><width>{side}</width><height>{side}</height><depth>1</depth></size>"
    return f"<annotation><filename>{escape(name)}</filename>{size}{inside}</annotation>\n"
