"""Sample jobs of instance segmentation and tracking."""

from pathlib import Path

from tests.tiny import Tiny, Writer

from salus.simulations.samples import write_samples


def cells(folder: Path) -> Tiny:
    data = write_samples(folder / "p", ("cells",), patients=60, seed=0, side=16)["cells"]
    return Tiny(data, change={"task.shape": [1, 16, 16], "task.widths": [4, 8]}, metric="mask_ap50")


def clips(folder: Path) -> Tiny:
    data = write_samples(folder / "p", ("clips",), patients=30, seed=0, side=16)["clips"]
    return Tiny(data, change={"task.shape": [16, 16, 16], "task.widths": [4, 8]}, metric="mota")


JOBS: dict[str, Writer] = {"phantom-cells.toml": cells, "tracking-phantom.toml": clips}
