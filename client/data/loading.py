"""From the catalogue to tensors for one job: which patients train and validate, and their prepared samples in memory."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from salus.client.data.cache import ExampleCache
from salus.client.data.catalogue import Catalogue
from salus.client.data.examples import annotations_of, lacking
from salus.client.data.preparing import Item, Preparer, learned, order_of, target_for
from salus.client.data.preparing import read_registered as read_registered  # scripts that check a data set find it here
from salus.client.data.several import items_of
from salus.client.data.split import KNOWN
from salus.client.data.tensors import TensorSet
from salus.client.data.troubles import Finding, unreadable
from salus.client.data.withdrawals import REASON as WITHDRAWN
from salus.client.performance import Performance
from salus.common.canonical import canonical_json
from salus.common.errors import DataError
from salus.common.examples import Array
from salus.common.job import Job
from salus.common.machine import MEBIBYTE
from salus.common.progress import SILENT, Report
from salus.common.subgroups import groups_of
from salus.common.subgroups.base import Subject
from salus.common.tasks.base import Task
from salus.common.transforms.chain import Chain
from salus.common.vocabulary import OTHER
from salus.privacy.contribution import DataKind

CACHE_VERSION = 4  # raise it when reading the same image gives other arrays


@dataclass(frozen=True)
class Memory:
    """Where prepared samples are kept.

    Args:
        cache_bytes: in memory.
        folder: of the cache on disk, or None for none.
        disk_bytes: of that cache at most.
    """

    cache_bytes: int
    folder: Path | None = None
    disk_bytes: int = 0

    @classmethod
    def of(cls, performance: Performance, folder: Path | None) -> "Memory":
        """Return what a site's settings say."""
        return cls(performance.cache_mb * MEBIBYTE, folder, performance.disk_cache_mb * MEBIBYTE)

    def on_disk(self, task: Task, chain: Chain, options: str) -> ExampleCache | None:
        """Return the part of the cache that belongs to a task's chain, or None."""
        name = transform_hash(task, chain, options)
        if name is None or self.folder is None or not self.disk_bytes:
            return None
        try:
            return ExampleCache(self.folder, name, self.disk_bytes)
        except OSError:
            return None  # without a cache a job takes longer, but runs


@dataclass(frozen=True)
class LocalData:
    """A site's data for one job.

    Args:
        left_out: samples and files that were not used, by reason, including those quarantined at registration; reported to the
            operator every round.
    """

    train: TensorSet
    validation: TensorSet
    left_out: dict[str, int]

    def trouble(self) -> Finding | None:
        """Return the current problem for the site's operator: missing files, or no usable data; None without one."""
        lost = self.train.lost | self.validation.lost
        if lost:
            return unreadable(lost)
        if len(self.train):
            return None
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items())) or "no reason known"
        return Finding(
            f"No image or row can be used for training in the running job ({reasons}). Compare its labels with the "
            "job's classes: salus dataset show."
        )

    def used(self) -> dict[str, DataKind]:
        """Return whose data these are, with the kind of data."""
        kinds = ((self.train, DataKind.TRAINING), (self.validation, DataKind.VALIDATION))
        return {patient: kind for part, kind in kinds for patient in part.pseudonyms}

    def without_withdrawn(self) -> bool:
        """Drop the samples of patients who have withdrawn meanwhile; return False if that is not enough.

        It is not where the chain has learned from them, or where nobody is left: then everything has to be prepared again.
        """
        before = len(self.train)
        kept = [part.without_withdrawn() for part in (self.train, self.validation)]
        return all(kept) and (len(self.train) > 0 or before == 0)

    def require(self) -> None:
        """Raise UnreadableImage if somebody has withdrawn whose samples these are."""
        for part in (self.train, self.validation):
            part.require(torch.arange(len(part)))

    def mended(self) -> None:
        """Clear the list of unreadable samples, so that they are tried again."""
        self.train.lost.clear()
        self.validation.lost.clear()


def local_data(
    catalogue: Catalogue,
    job: Job,
    task: Task,
    memory: Memory,
    patients: frozenset[str] | None = None,
    site: int = 0,
    report: Report = SILENT,
) -> LocalData:
    """Read a job's data set, or the part of it that is of these patients.

    Args:
        site: number of the site on the roster, which may be a subgroup of the evaluation.
        report: called with the share that is read, from 0 to 1.

    All samples of a patient are in one split, the same in every job, see `split`.

    Raises:
        DataError: the data set is not registered, or has no patient to train on.
        UnfitError: the data set is not approved.
    """
    dataset = job.task.dataset
    catalogue.approvals.require(dataset)
    facts = catalogue.facts(dataset)
    groups = groups_of(job)
    pairs = zip(catalogue.images(dataset), facts, strict=True)
    known = [(image, fact) for image, fact in pairs if patients is None or image.patient in patients]
    images = [image for image, *_ in known]
    source = catalogue.source(dataset)
    left_out: Counter[str] = Counter(catalogue.summary(dataset).quarantined)
    left_out.pop(WITHDRAWN, None)  # without noise the other sites see the sum, and nobody shall see a withdrawal
    parts: dict[str, list[Item]] = {split: [] for split in KNOWN}
    private = job.privacy.noised
    splits = catalogue.splits(dataset, job.training.validation_fraction)
    for image, fact in known:
        if lack := lacking(fact.targets, task):
            left_out[lack] += 1
            continue
        target = _meaning(task, image.label)
        if target is None or (image.split and image.split not in KNOWN):
            left_out["label-outside-job" if target is None else "unknown-split"] += 1
            continue
        vendor, places = str(fact.info.get("vendor", OTHER)), groups.of(Subject(fact.info, site))
        parts[splits[image.patient]].append(Item(image, target, vendor, places, order_of(fact.info)))
    gate = catalogue.withdrawals.gate()
    chain = learned(Preparer(source, task, gate=gate), parts["train"])
    preparer = Preparer(source, task, chain, memory.on_disk(task, chain, catalogue.reading(dataset)), gate)
    for split, images_of_split in parts.items():
        parts[split], outside = items_of(task, images_of_split)
        left_out += outside
    first = len(parts["train"]) / max(1, len(parts["train"]) + len(parts["val"]))
    train = TensorSet(parts["train"], preparer, memory.cache_bytes, training=True, report=_part(report, 0.0, first))
    # Plain statistics are divided by this bound, so that each stays within 0 .. 1. Private ones have no such limit: leaving out
    # the last patients would let one patient push out another.
    bound = len(images) if private else job.aggregation.max_patients
    left_out["beyond-validation-bound"] += max(0, len(parts["val"]) - bound)
    validation = TensorSet(parts["val"][:bound], preparer, memory.cache_bytes, report=_part(report, first, 1.0))
    for reason, count in (train.unreadable + validation.unreadable).items():
        left_out[reason] += count if reason != WITHDRAWN else 0
    if len(train) == 0 and not private:
        raise DataError(
            f"The data set {job.task.dataset!r} has no sample that this job can train on.",
            remedy="Compare its labels with the job's classes: salus dataset show.",
        )
    return LocalData(train, validation, {reason: count for reason, count in left_out.items() if count})


def _part(report: Report, begin: float, end: float) -> Report:
    """Return what reports a part of the work as the share of all of it."""
    return lambda done: report(begin + (end - begin) * done)


def _meaning(task: Task, label: str) -> Array | int | None:
    """Return what a label means to a task; one that the task fails on means nothing, and costs no other patient."""
    try:
        return target_for(task, label)
    except Exception:  # of a plug-in, or of a label that no form was made for
        return None


def transform_hash(task: Task, chain: Chain, options: str) -> str | None:
    """Return a hash of all processing between a stored image and the result of the chain's fixed part.

    None if that depends on other images, or if there is nothing to keep: a table's rows need no cache.

    Args:
        options: of the source, as the catalogue keeps them.
    """
    key, settings = chain.key(), task.settings
    if key is None or not settings.shape:
        return None
    annotated = annotations_of(task)
    parts = {
        "version": CACHE_VERSION,
        "chain": key,
        "measured": chain.measured,
        "task": [list(settings.shape), settings.channels],
        # A mask's numbers follow the job's structures.
        "annotations": [annotated, dict(settings.targets), list(settings.classes)] if annotated else [],
        "source": options,
    }
    return hashlib.sha256(canonical_json(parts)).hexdigest()[:32]
