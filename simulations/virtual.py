"""Virtual hospitals: one data set divided among sites, each with its own catalogue, policy and roster entry."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp

from salus.client.app import make_client_app
from salus.client.data.catalogue import Catalogue
from salus.client.data.declaration import propose
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.grey_values import require_range
from salus.client.data.records import ImageFacts, ImageRecord, Quarantined
from salus.client.data.sources import guess_kind, open_source
from salus.client.data.sources.settings import SourceOptions
from salus.client.ledger.store import Budget, Ledger
from salus.client.performance import Performance
from salus.client.policy import Policy
from salus.client.site import Site
from salus.common.canonical import hash_parts, u32
from salus.common.clock import SystemClock
from salus.common.declaration import Declaration
from salus.common.events import EventLog
from salus.common.fit import require_fit
from salus.common.identity import Identity
from salus.common.job import Job
from salus.common.models import MODELS
from salus.privacy.protocol.store import MemoryStore
from salus.simulations.engine import AppFactory
from salus.simulations.partitioners import Patient, divide

PATIENCE_S = 10.0  # for a round that fails: nobody mends a virtual hospital meanwhile
TEST_FRACTION = 0.2  # share of patients, if the data define no test split
# Virtual hospitals accept what a real site's operator must allow; each simulation has new, empty ledgers.
OPEN_POLICY = Policy(
    allow_unprotected=True,
    allow_without_noise=True,
    allow_imprint_models=tuple(MODELS.names()),
    allow_starts=("any",),
    key_holders=tuple(range(1, 1001)),
    budget=Budget(epsilon=1e6),
    min_patients_per_cell=1,  # the job sets the limit
    allow_site_results=True,
)
MOST_PATIENTS = 10**9
GROUP = "group"  # the partition by hospital, and a fact of its test patients
CENTRAL = 0  # the site number of the catalogue that holds the test split


@dataclass(frozen=True)
class VirtualHospitals:
    """The catalogues of a simulation.

    Args:
        folder: folder with ``site-<n>`` for every site, and ``central``.
        sites: number of sites.
        quarantined: number of unusable files in the whole source, by reason.
    """

    folder: Path
    sites: int
    quarantined: dict[str, int]

    def site_ids(self) -> list[int]:
        """Return all site ids, from 1."""
        return list(range(1, self.sites + 1))


def catalogue_path(folder: Path, site: int) -> Path:
    """Return the catalogue of a site, or the central one for `CENTRAL`."""
    return folder / ("central" if site == CENTRAL else f"site-{site}") / "catalogue.sqlite"


def open_catalogue(folder: Path, site: int, decoding: Decoding | None = None) -> Catalogue:
    """Open a virtual catalogue; its pseudonyms need not protect anyone, because the researcher has the data."""
    return Catalogue(catalogue_path(folder, site), b"virtual hospitals", decoding)


def make_hospitals(
    job: Job, data: Path, options: SourceOptions, *, sites: int, partition: str, seed: int, folder: Path
) -> VirtualHospitals:
    """Scan `data` once, divide the patients, and write a catalogue for each site and one for the test split.

    Raises:
        DataError: `data` has no usable samples.
        ConfigError: the partition is not possible.
        UnfitError: the job does not fit the data, such as a class without a label.
    """
    kind = guess_kind(data)
    found = list(open_source(kind, data, options).scan())
    quarantined: dict[str, int] = {}
    records: list[ImageRecord] = []
    for item in found:
        if isinstance(item, Quarantined):
            quarantined[item.reason] = quarantined.get(item.reason, 0) + 1
        else:
            records.append(item)
    held_out = _test_patients(records, seed)
    test = [record for record in records if record.patient in held_out]
    rest = [record for record in records if record.patient not in held_out]
    first: dict[str, ImageRecord] = {}
    for record in rest:
        first.setdefault(record.patient, record)
    owner: dict[str, int] = {}
    # Splits are divided separately, so that the source's validation patients are spread over all sites.
    for split in sorted({record.split for record in rest}):
        patients = [Patient(p, r.label, r.group) for p, r in first.items() if r.split == split]
        for site, keys in enumerate(divide(partition, patients, sites, seed), start=1):
            owner |= dict.fromkeys(keys, site)
    require_range(job, kind)
    declared = _declaration(records, kind, data, options)
    if isinstance(declared, Declaration):
        require_fit(job, {job.task.dataset: declared})  # once, instead of by every virtual hospital in every attempt
    for site in range(1, sites + 1):
        mine = [record for record in rest if owner[record.patient] == site]
        open_catalogue(folder, site).add_records(job.task.dataset, kind, data, options, mine, declare=declared)
    if partition.partition(":")[0] == GROUP:  # so that the test patients of each hospital can be told apart
        test = [replace(record, info={**record.info, GROUP: record.group}) for record in test]
    if test:
        open_catalogue(folder, CENTRAL).add_records(job.task.dataset, kind, data, options, test, declare=declared)
    return VirtualHospitals(folder, sites, quarantined)


def _declaration(records: Sequence[ImageRecord], kind: str, data: Path, options: SourceOptions) -> Declaration | bool:
    """Return the declaration of every virtual hospital: the data of all of them, as real hospitals would agree in advance."""
    if not records:
        return False  # refused with its reason when it is registered
    facts = [ImageFacts(r.patient, r.label, r.pixel_sha256, dict(r.info), r.targets) for r in records]
    source = open_source(kind, data, options)
    own = any(record.split == "val" for record in records)
    found = propose(facts, lambda: source.load(records[0].key), len(records), least=1, own_validation=own).declaration
    return found.model_copy(update={"min_patients": MOST_PATIENTS})  # the researcher knows the data: no bound is needed


def _test_patients(records: Sequence[ImageRecord], seed: int) -> set[str]:
    if any(record.split == "test" for record in records):
        return {record.patient for record in records if record.split == "test"}
    patients = {record.patient for record in records}
    return {p for p in patients if _fraction(f"{seed}/{p}") < TEST_FRACTION}


def _fraction(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker process needs to run its sites; plain values, because it is sent to other processes.

    Args:
        seed: secret of this run, from which every virtual site's signing key is derived.
        sites: number of sites.
    """

    folder: Path
    seed: bytes
    sites: int
    coordinator_key: bytes
    policy: Policy
    performance: Performance


def virtual_identity(seed: bytes, site: int) -> Identity:
    """Return a virtual site's signing key."""
    return Identity.from_seed(hash_parts("salus/virtual-site", seed, u32(site)))


def virtual_keys(seed: bytes, sites: int) -> dict[int, bytes]:
    """Return the public keys of all virtual sites."""
    return {site: virtual_identity(seed, site).public_key for site in range(1, sites + 1)}


def app_factory(setup: WorkerSetup) -> AppFactory:
    """Return the factory that `PoolGrid` calls in each worker."""
    return functools.partial(_make_app, setup)


def _make_app(setup: WorkerSetup, sites: Sequence[int], threads: int) -> ClientApp:
    performance = setup.performance.model_copy(update={"threads": setup.performance.threads or threads})
    made: dict[int, Site] = {}

    def site_of(context: Context) -> Site:
        number = context.node_id
        if number not in made:
            made[number] = Site(
                site_id=number,
                identity=virtual_identity(setup.seed, number),
                keys=virtual_keys(setup.seed, setup.sites),
                store=MemoryStore(),
                coordinator_key=setup.coordinator_key,
                catalogue=open_catalogue(setup.folder, number),
                policy=lambda: setup.policy,
                performance=performance,
                events=EventLog(setup.folder / f"site-{number}" / "events.jsonl"),
                ledger=Ledger(setup.folder / f"site-{number}" / "ledger.sqlite", SystemClock()),
                starts=setup.folder / f"site-{number}" / "starts",
                states=setup.folder / f"site-{number}" / "states",  # on disk: another worker may be asked next
            )
        return made[number]

    return make_client_app(site_of)
