"""Sample jobs of sequences and of multi-instance learning."""

from pathlib import Path
from typing import Any

from tests.tiny import Tiny, Writer

from salus.simulations.samples import write_samples

SMALL = {"task.shape": [8, 8], "task.most_images": 4}
ENCODED = {**SMALL, "task.feature_width": 8}


def of(kind: str, change: dict[str, Any]) -> Writer:
    def write(folder: Path) -> Tiny:
        data = write_samples(folder / "p", (kind,), patients=60, seed=0, side=8)[kind]
        return Tiny(data, change=change, metric="auc")

    return write


JOBS: dict[str, Writer] = {
    "phantom-sequence-gru.toml": of("visits", ENCODED),
    "phantom-sequence-lstm.toml": of("visits", ENCODED),
    "phantom-sequence-conv-lstm.toml": of("visits", {**SMALL, "task.map_width": 8}),
    "phantom-sequence-transformer.toml": of("visits", ENCODED),
    "phantom-multi-instance.toml": of("bags", ENCODED),
}
