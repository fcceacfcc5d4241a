"""One data set divided among the real sites of a federation as a simulation divides it among virtual hospitals."""

from pathlib import Path

from salus.client.config import open_catalogue
from salus.client.data.sources import guess_kind
from salus.client.data.sources.settings import SourceOptions
from salus.common.job import Job
from salus.simulations.trial import Trial
from salus.simulations.virtual import make_hospitals
from salus.simulations.virtual import open_catalogue as virtual_catalogue


def register(
    federation: Trial,
    job: Job,
    data: Path,
    options: SourceOptions,
    folder: Path,
    *,
    sites: int,
    partition: str,
    seed: int,
) -> None:
    """Register each site's part of the data under the job's name of the data set.

    Args:
        folder: for the catalogues of the virtual hospitals.
    """
    name = job.task.dataset
    make_hospitals(job, data, options, sites=sites, partition=partition, seed=seed, folder=folder)
    for number, site in enumerate(federation.sites[:sites], start=1):
        virtual = virtual_catalogue(folder, number)
        mine = {image.key for image in virtual.images(name)}
        records = [record for record in virtual.source(name).scan() if record.key in mine]
        declared = virtual.declarations.all()[name] or False
        open_catalogue(site).add_records(name, guess_kind(data), data, options, records, declare=declared)
