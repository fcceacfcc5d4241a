"""Sample jobs of survival."""

import csv
from pathlib import Path

import numpy as np
from tests.tiny import JOBS as FOLDER
from tests.tiny import Tiny, Writer

from salus.client.data.sources.settings import SourceOptions
from salus.common.job import load_job
from salus.simulations.samples import write_samples


def regions(folder: Path) -> Tiny:
    """Write tables with the columns of TCGA-BRCA and random numbers."""
    rng = np.random.default_rng(0)
    columns = [column.name for column in load_job(FOLDER / "tcga-brca.toml").task.columns]
    (folder / "tcga").mkdir()
    for region in range(6):
        with (folder / "tcga" / f"region-{region}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["pid", *columns, "event", "time", "split"])
            for number in range(30):
                values = [59 + 10 * round(float(rng.normal()), 2), *rng.integers(0, 2, len(columns) - 1)]
                split = "test" if number < 6 else "train"
                writer.writerow(
                    [f"P{region}-{number}", *values, int(rng.random() < 0.5), int(rng.integers(0, 4000)), split]
                )
    options = SourceOptions(label_column="time", event_column="event", patient_column="pid")
    return Tiny(folder / "tcga", sites=6, partition="group", options=options)


def network(folder: Path) -> Tiny:
    tiny = regions(folder)
    return Tiny(tiny.data, tiny.sites, tiny.partition, tiny.options, metric="c_index_mean_of_sites")


def cox(folder: Path) -> Tiny:
    tiny = regions(folder)
    return Tiny(tiny.data, tiny.sites, tiny.partition, tiny.options, {"job.rounds": 2, "statistics.interval": 900.0})


def pictures(folder: Path) -> Tiny:
    data = write_samples(folder / "p", ("survival",), patients=100, seed=0, side=8)["survival"]
    options = SourceOptions(label_column="days", event_column="event")
    return Tiny(data, options=options, change={"task.shape": [8, 8]}, metric="c_index")


JOBS: dict[str, Writer] = {
    "tcga-brca.toml": network,
    "tcga-brca-private.toml": network,
    "tcga-brca-cox.toml": cox,
    "tcga-brca-curve.toml": regions,
    "phantom-survival.toml": pictures,
}
