"""Pictures of patients with a sex and an age, for tests of subgroups."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from salus.client.data.sources.settings import SourceOptions

OPTIONS = SourceOptions(sex_column="sex", age_column="age")


def write_people(
    folder: Path, *, patients: int, seed: int = 0, side: int = 8, others: int = 0, split: bool = False
) -> Path:
    """Write one to three pictures of each patient and `labels.csv`; class ``yes`` is bright in the middle.

    Args:
        split: say which half of the patients validates; otherwise each site draws it.
        others: how many of the patients have the sex ``O``; of the rest, one in ten has none that is known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    rows = [["file", "PatientID", "label", "sex", "age", "split"]]
    for patient in range(patients):
        label = patient % 2
        sex = "O" if patient < others else ("" if random.random() < 0.1 else "FM"[int(random.integers(2))])
        age = int(random.integers(1, 99))
        place = ("train", "val")[patient // 2 % 2] if split else ""
        for image in range(1 + patient % 3):
            pixels = random.integers(0, 150, (side, side)).astype(np.uint8)
            pixels[2:6, 2:6] += np.uint8(60 * label)
            name = f"{seed}-{patient}-{image}.png"
            Image.fromarray(pixels).save(folder / name)
            rows.append([name, f"P{seed}-{patient}", ("no", "yes")[label], sex, str(age + image), place])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def with_subgroups(text: str, subgroups: str = '["sex", "age"]', more: str = "") -> str:
    """Return the text of a job that evaluates in subgroups."""
    return f"{text}\n[evaluation]\nsubgroups = {subgroups}\n{more}"
