"""Sample jobs for a rare finding that few hospitals see."""

from pathlib import Path
from typing import Any

from tests.tiny import Tiny, Writer

from salus.simulations.samples import write_samples


def patients(folder: Path, change: dict[str, Any] | None = None) -> Tiny:
    data = write_samples(folder / "p", ("imbalance",), patients=100, seed=0, side=8)["imbalance"]
    return Tiny(data, partition="group", change={"task.shape": [8, 8], **(change or {})}, metric="balanced_accuracy")


WAYS = (
    "weights",
    "balanced",
    "hard",
    "focal",
    "class-balanced",
    "logit-adjusted",
    "mixup",
    "augmented",
    "site-calibrated",
)
JOBS: dict[str, Writer] = {
    "phantom-imbalance.toml": patients,
    **{f"phantom-imbalance-{way}.toml": patients for way in (*WAYS, "private")},
}
