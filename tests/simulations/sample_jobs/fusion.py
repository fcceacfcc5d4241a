"""Sample jobs of fusion."""

from pathlib import Path

from tests.tiny import Tiny, Writer

from salus.client.data.sources.settings import SourceOptions
from salus.simulations.samples import write_samples


def patients(folder: Path) -> Tiny:
    data = write_samples(folder / "p", ("fusion",), patients=125, seed=0, side=8)["fusion"]
    options = SourceOptions(row=("crp", "age"), text="report")
    return Tiny(data, partition="group", options=options, change={"task.shape": [8, 8]}, metric="auc")


JOBS: dict[str, Writer] = {"fusion-phantom.toml": patients}
