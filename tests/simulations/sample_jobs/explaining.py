"""Sample jobs whose models are explained."""

from pathlib import Path

from tests.tiny import Tiny, Writer

from salus.simulations.samples import write_samples

SMALL = {"task.shape": [8, 8], "training.local_epochs": 1}


def lesions(folder: Path) -> Tiny:
    data = write_samples(folder / "p", ("lesions",), patients=50, seed=0, side=16)["lesions"]
    return Tiny(data, change=SMALL)


def faithful(folder: Path) -> Tiny:
    return Tiny(lesions(folder).data, change={**SMALL, "task.explained_steps": 2})


JOBS: dict[str, Writer] = {"phantom-lesions.toml": lesions, "phantom-lesions-explained.toml": faithful}
