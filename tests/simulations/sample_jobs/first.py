"""The first sample jobs: classification, segmentation, tables and statistics."""

from pathlib import Path

import numpy as np
from tests.builders import write_npz
from tests.tiny import Tiny, Writer

from salus.client.data.sources.settings import SourceOptions
from salus.simulations.samples import write_samples

COLUMNS = (
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
)


def pictures(folder: Path) -> Tiny:
    return Tiny(write_npz(folder / "toy.npz", images=60), change={"task.shape": [8, 8], "task.classes": ["0", "1"]})


def masks(folder: Path) -> Tiny:
    return Tiny(write_samples(folder / "p", ("masks",), patients=100, seed=0, side=8)["masks"])


def heart(folder: Path) -> Tiny:
    rng = np.random.default_rng(0)
    rows = [",".join(COLUMNS) + ",num"]
    for _ in range(200):  # every site needs ten of each class
        values = [rng.integers(30, 70), rng.integers(0, 2), rng.integers(1, 5), 130, 240, 0, 0, rng.integers(90, 190),
                  rng.integers(0, 2), rng.uniform(0, 4), 1, 0, 3]  # fmt: skip
        rows.append(",".join(f"{value:.3g}" for value in values) + f",{int(rng.random() < 0.5)}")
    (folder / "heart.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return Tiny(
        folder / "heart.csv", options=SourceOptions(label_column="num", positive_above=0, columns=(*COLUMNS, "num"))
    )


JOBS: dict[str, Writer] = {
    "pneumonia.toml": pictures,
    "pneumonia-private.toml": pictures,
    "phantom-lesion.toml": pictures,
    "phantom-release.toml": pictures,
    "phantom-statistics.toml": pictures,
    "phantom-structures.toml": masks,
    "hippocampus.toml": masks,
    "hippocampus-private.toml": masks,
    "heart-disease.toml": heart,
    "heart-disease-odds.toml": heart,
}
