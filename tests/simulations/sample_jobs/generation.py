"""Sample jobs for the generation of images."""

from pathlib import Path
from typing import Any

from tests.builders import write_npz
from tests.tiny import Tiny, Writer


def of(**own: Any) -> Writer:
    def pictures(folder: Path) -> Tiny:
        change = {"task.classes": ["0", "1"], "task.shape": [8, 8], "task.score_images": 16, "training.batch_size": 4}
        data = write_npz(folder / "toy.npz", images=60)
        return Tiny(
            data, change={**change, **{f"task.{key}": value for key, value in own.items()}}, metric="auc_generated"
        )

    return pictures


JOBS: dict[str, Writer] = {
    "pneumonia-diffusion.toml": of(widths=[8, 8], sampling_steps=2),
    "pneumonia-vae.toml": of(widths=[4, 8]),
    "pneumonia-vae-private.toml": of(widths=[4, 8]),
    "pneumonia-gan.toml": of(widths=[4, 8]),
    "pneumonia-rnn.toml": of(hidden_size=8),
}
