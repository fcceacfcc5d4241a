"""Phantom pictures and volumes with bright round objects of two sizes, and their boxes (VOC's XML beside pictures)."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

CLASSES = ("small", "large")
SIDES = {"small": (0.1, 0.16), "large": (0.22, 0.34)}  # of the picture's side
MOST = 4


def write_boxes(folder: Path, patients: int, seed: int, side: int) -> Path:
    """Write ``JPEGImages``, ``Annotations`` and the lists of splits to an existing folder, and return it.

    Guarantees: the same arguments write the same pictures, one of each patient.
    """
    rng = np.random.default_rng([seed, patients, side, 16])
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for number in range(patients):
        picture, boxes = _drawn(rng, side)
        name = f"phantom{number:04d}"
        Image.fromarray(picture).save(folder / "JPEGImages" / f"{name}.png")
        (folder / "Annotations" / f"{name}.xml").write_text(_voc(name, side, boxes), encoding="utf-8")
        lists["test" if number % 5 == 0 else "val" if number % 5 == 1 else "train"].append(name)
    for split, names in lists.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return folder


def _drawn(
    rng: np.random.Generator, side: int
) -> tuple[npt.NDArray[np.uint8], list[tuple[str, tuple[int, int, int, int]]]]:
    """Return a picture and its objects: class, and x and y of the low and the high corner."""
    values = rng.normal(70, 10, (side, side))
    y, x = np.mgrid[:side, :side]
    boxes = []
    for _ in range(int(rng.integers(1, MOST + 1))):
        kind = str(rng.choice(CLASSES))
        radius = side * rng.uniform(*SIDES[kind]) / 2
        cy, cx = rng.uniform(radius, side - radius, 2)
        values[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] += 110
        low_high = (cx - radius, cy - radius, cx + radius, cy + radius)
        boxes.append((kind, tuple(round(v) for v in low_high)))
    return np.clip(values, 0, 255).astype(np.uint8), boxes


def _voc(name: str, side: int, boxes: list[tuple[str, tuple[int, int, int, int]]]) -> str:
    objects = "".join(
        f"<object><name>{kind}</name><bndbox><xmin>{max(1, x0 + 1)}</xmin><ymin>{max(1, y0 + 1)}</ymin>"
        f"<xmax>{min(side, x1)}</xmax><ymax>{min(side, y1)}</ymax></bndbox></object>"
        for kind, (x0, y0, x1, y1) in boxes
    )
    size = f"<size><width>{side}</width><height>{side}</height><depth>1</depth></size>"
    return f"<annotation><filename>{name}.png</filename>{size}{objects}</annotation>"
