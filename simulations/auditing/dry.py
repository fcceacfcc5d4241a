"""A hospital's audit of a job over its own data, before it takes part: nothing leaves the site, and nothing of it changes."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from salus.client.config import copied_catalogue
from salus.client.data.catalogue import Catalogue
from salus.client.data.grey_values import require_range
from salus.client.data.records import ImageRecord
from salus.client.policy import load_policy
from salus.common.errors import ConfigError, DataError, describe
from salus.common.fit import require_fit
from salus.common.job import Job
from salus.simulations.auditing.asked import Target
from salus.simulations.partitioners import Patient, divide
from salus.simulations.virtual import MOST_PATIENTS, open_catalogue

FEWEST = 2  # patients of a virtual hospital
AUDITS = "audits"


def folder_of(site: Path, job: Job) -> Path:
    """Return where the results of a job's audit are kept, in the site's folder."""
    return site / AUDITS / f"{job.job.name}-{job.digest().hex()[:8]}"


def own_hospitals(
    site: Path, job: Job, dataset: str, *, sites: int, partition: str, seed: int, folder: Path
) -> tuple[Target, str]:
    """Divide a registered data set among virtual hospitals, and return these with a text for the page.

    Args:
        site: the site's folder; a copy of its catalogue is read, and neither its ledger nor its catalogue is opened.
        dataset: name of a registered data set; empty for the one that the job names.
        folder: new, outside the site's own files.

    Raises:
        ConfigError: not a site's folder, or fewer patients than are needed.
        DataError, UnfitError: the data set is unknown, not approved, or does not fit the job.
    """
    name = dataset or job.task.dataset
    folder.mkdir(parents=True, exist_ok=True)
    catalogue = copied_catalogue(site, folder / "catalogue-copy.sqlite")
    if name not in catalogue.names():
        raise DataError(
            f"No data set {name!r} is registered at this site (registered: {', '.join(catalogue.names()) or 'none'}).",
            remedy="Name one with --dataset, or register it: salus dataset add.",
        )
    catalogue.approvals.require(name)
    declared = catalogue.declarations.all().get(name)
    require_fit(job, {job.task.dataset: declared})
    kind, (root, options) = catalogue.kind(name), catalogue.registered(name)
    require_range(job, kind)
    records = list(_records(catalogue, name))
    people = {record.patient: Patient(record.patient, record.label, "") for record in records}
    if len(people) < FEWEST * sites:
        raise ConfigError(
            f"The data set has {len(people)} patients, and {sites} virtual hospitals need at least {FEWEST} each.",
            remedy="Give a smaller number with --sites.",
        )
    owner = {
        key: place
        for place, keys in enumerate(divide(partition, list(people.values()), sites, seed), 1)
        for key in keys
    }
    declare = declared.model_copy(update={"min_patients": MOST_PATIENTS}) if declared is not None else False
    for number in range(1, sites + 1):
        mine = [record for record in records if owner[record.patient] == number]
        # Under the name that the job uses, so that the audit is of this job.
        open_catalogue(folder, number).add_records(job.task.dataset, kind, root, options, mine, declare=declare)
    about = (
        f"Made at a hospital over its own data set {name!r}: {len(people)} patients, divided among {sites} virtual hospitals. "
        f"Nothing left the hospital; its ledger, budgets and policy are as before. {_policy(site, job)}"
    )
    return Target(job, folder, sites, catalogue.decoding), about


def _records(catalogue: Catalogue, name: str) -> Iterator[ImageRecord]:
    for image, facts in zip(catalogue.images(name), catalogue.facts(name), strict=True):
        yield ImageRecord(
            patient=image.patient, study=_study(image.study), key=image.key, label=image.label, split=image.split,
            sha256=image.sha256, pixel_sha256=facts.pixel_sha256, pseudonymous=True, info=dict(facts.info),
            targets=dict(facts.targets),
        )  # fmt: skip


def _study(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _policy(site: Path, job: Job) -> str:
    """Return what the site's policy says about a job, as a sentence."""
    refusals = [describe(refusal) for refusal in load_policy(site / "policy.toml").objections(job)]
    if not refusals:
        return "The present policy would allow this job."
    return f"The present policy would refuse this job: {' '.join(refusals)}"
