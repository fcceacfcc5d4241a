"""Classic image features and the learners on top of them."""

from pathlib import Path

from tests.builders import write_npz
from tests.tiny import Tiny, Writer

CLASSES = {"task.classes": ["0", "1"]}


def codebook(folder: Path) -> Tiny:
    smaller = {"statistics.words": 4, "statistics.most_keypoints": 16, "job.rounds": 2, "statistics.min_patients": 2}
    return Tiny(write_npz(folder / "toy.npz", images=60), change={**CLASSES, **smaller})


def rows(folder: Path) -> Tiny:
    return Tiny(write_npz(folder / "toy.npz", images=60), change=CLASSES, metric="auc")


def private(folder: Path) -> Tiny:
    return Tiny(write_npz(folder / "toy.npz", images=60), change={**CLASSES, "privacy.patients_per_site": 12})


JOBS: dict[str, Writer] = {
    "pneumonia-bag-of-words-private.toml": private,
    "pneumonia-bag-of-words-svm.toml": rows,
    "pneumonia-codebook.toml": codebook,
    "pneumonia-radiomics-svm.toml": rows,
}
