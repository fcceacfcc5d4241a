"""Sample jobs of detection."""

from pathlib import Path

from tests.tiny import Tiny, Writer

from salus.simulations.samples import write_samples

SMALL = {"task.widths": [4, 4, 8, 8], "task.neck_width": 8}


def objects(folder: Path) -> Tiny:
    data = write_samples(folder / "p", ("boxes",), patients=50, seed=0, side=32)["boxes"]
    return Tiny(data, change={**SMALL, "task.shape": [32, 32]}, metric="ap50_mean")


def smears(folder: Path) -> Tiny:
    data = write_samples(folder / "p", ("boxes",), patients=40, seed=0, side=32)["boxes"]
    change = {**SMALL, "task.shape": [32, 32], "task.channels": 1, "task.classes": ["small", "large"]}
    return Tiny(data, sites=4, change=change, metric="ap50_mean")


NETWORKS = ("retinanet", "ssd", "yolo", "centernet", "cornernet", "faster-rcnn")
JOBS: dict[str, Writer] = {
    "bccd.toml": smears,
    **{f"phantom-{name}.toml": objects for name in NETWORKS},
}
