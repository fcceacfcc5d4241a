"""Sample jobs of instance segmentation and tracking."""

from dataclasses import replace
from pathlib import Path

from tests.tiny import Tiny, Writer

from salus.simulations.samples import write_samples


def cells(folder: Path) -> Tiny:
    data = write_samples(folder / "p", ("cells",), patients=60, seed=0, side=16)["cells"]
    return Tiny(data, change={"task.shape": [1, 16, 16], "task.widths": [4, 8]}, metric="mask_ap50")


def regions(folder: Path) -> Tiny:
    one = cells(folder)
    small = {"widths": [4, 4, 4, 4], "neck_width": 8, "proposals": 6, "hidden": 8, "mask_width": 4, "mask_size": 6}
    sizes = {"fine_sizes": [3.0], "coarse_sizes": [5.0]}
    change = {"task.shape": [1, 16, 16], **{f"task.{key}": value for key, value in {**small, **sizes}.items()}}
    return replace(one, change=change)


def clips(folder: Path) -> Tiny:
    data = write_samples(folder / "p", ("clips",), patients=30, seed=0, side=16)["clips"]
    return Tiny(data, change={"task.shape": [16, 16, 16], "task.widths": [4, 8]}, metric="mota")


JOBS: dict[str, Writer] = {
    "phantom-cells.toml": cells,
    "phantom-mask-rcnn.toml": regions,
    "tracking-phantom.toml": clips,
}
