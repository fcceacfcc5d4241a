"""From the catalogue to tensors for one job: which patients train and validate, and their prepared samples in memory."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from salus.client.data.cache import TensorCache, transform_hash
from salus.client.data.catalogue import Catalogue, CataloguedImage
from salus.client.data.examples import LABEL, example_of
from salus.client.data.harmonise import Harmoniser, Known, harmoniser_of
from salus.client.data.records import Sample
from salus.client.data.sources.base import Source
from salus.client.data.split import KNOWN
from salus.client.data.troubles import Finding, unreadable
from salus.client.performance import Performance
from salus.common.batch import Batch, stacked
from salus.common.cost import MEBIBYTE
from salus.common.declaration import target_of
from salus.common.errors import DataError, UnreadableImage
from salus.common.job import Job
from salus.common.tasks.base import Task
from salus.common.vocabulary import OTHER


@dataclass(frozen=True)
class Item:
    """One labelled sample."""

    image: CataloguedImage
    target: int
    vendor: str = OTHER


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

    def on_disk(self, job: Job, options: str) -> TensorCache | None:
        """Return the part of the cache that belongs to a job, or None."""
        transform = transform_hash(job, options)
        if transform is None or self.folder is None or not self.disk_bytes:
            return None
        try:
            return TensorCache(self.folder, transform, self.disk_bytes)
        except OSError:
            return None  # without a cache a job takes longer, but runs


class TensorSet:
    """Prepared samples as named tensors; in memory up to a limit, then on disk, otherwise read again from the source.

    Args:
        items: samples that were readable when the set was made.
        harmonise: brings each sample to the job's common scale, see `harmonise`.
        cache: keeps them on disk.

    Attributes:
        lost: samples that could not be read when they were last asked for, by key, with the reason.
    """

    def __init__(
        self,
        items: Sequence[Item],
        source: Source,
        task: Task,
        cache_bytes: int,
        harmonise: Harmoniser | None = None,
        cache: TensorCache | None = None,
    ) -> None:
        self._source = source
        self._harmonise = harmonise
        self._task = task
        self._disk = cache
        self.unreadable: Counter[str] = Counter()
        self.lost: dict[str, str] = {}
        self._items: list[Item] = []
        cached: list[dict[str, torch.Tensor]] | None = []
        used = 0
        for item in items:
            try:
                fields = self._read(item)
            except UnreadableImage as problem:
                self.unreadable[problem.reason] += 1
                continue
            except DataError:
                self.unreadable["does-not-fit-job"] += 1
                continue
            except Exception as problem:
                # A source's failure on one sample must not exclude all others.
                self.unreadable[type(problem).__name__] += 1
                continue
            self._items.append(item)
            used += sum(tensor.nbytes for tensor in fields.values())
            if cached is not None:
                cached.append(fields)
                if used > cache_bytes:
                    cached = None
        self._cached = stacked(cached) if cached else None

    def _read(self, item: Item) -> dict[str, torch.Tensor]:
        try:
            fields = self._found(item)
        except UnreadableImage as problem:
            self.lost[item.image.key] = problem.reason
            raise
        self.lost.pop(item.image.key, None)
        if LABEL in self._task.spec:
            fields[LABEL] = torch.tensor(item.target)
        return fields

    def _found(self, item: Item) -> dict[str, torch.Tensor]:
        """Return everything but the label, which may be corrected without reading the image again."""
        if self._disk is None:
            return self._prepared(item)
        stamp = self._source.stamp(item.image.key)
        content = item.image.sha256 and f"{item.image.sha256}/{item.vendor}"  # a scale may depend on the vendor
        spec = {name: field for name, field in self._task.spec.items() if name != LABEL}
        fields = self._disk.get(content, stamp, spec) if content else None
        if fields is None:
            fields = self._prepared(item)
            if content:
                self._disk.put(content, stamp, fields, spec)
        return fields

    def _prepared(self, item: Item) -> dict[str, torch.Tensor]:
        sample = read_registered(self._source, item.image)
        if self._harmonise is not None:
            sample = self._harmonise(sample, item.vendor)
        return self._task.prepare(example_of(sample, self._task.settings, item.vendor))

    @property
    def in_memory(self) -> bool:
        """Whether no batch has to be read from disk."""
        return self._cached is not None or not self._items

    def __len__(self) -> int:
        return len(self._items)

    @property
    def patients(self) -> int:
        """Number of different patients."""
        return len({item.image.patient for item in self._items})

    def by_patient(self) -> list[list[int]]:
        """Return the positions of each patient's samples, patients in the order of their pseudonyms."""
        places: dict[str, list[int]] = {}
        for place, item in enumerate(self._items):
            places.setdefault(item.image.patient, []).append(place)
        return [places[patient] for patient in sorted(places)]

    def batch(self, rows: torch.Tensor) -> Batch:
        """Return the items at these positions."""
        if self._cached is not None:
            return self._cached.rows(rows)
        return stacked([self._read(self._items[int(row)]) for row in rows])


def read_registered(source: Source, image: CataloguedImage) -> Sample:
    """Return a sample as its source reads it now; raises UnreadableImage if it is gone or not the registered one."""
    sample = source.load(image.key)
    if sample.sha256 and sample.sha256 != image.sha256:
        raise UnreadableImage("changed", "the file is not the one that was registered")
    return sample


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

    def mended(self) -> None:
        """Clear the list of unreadable samples, so that they are tried again."""
        self.train.lost.clear()
        self.validation.lost.clear()


def local_data(
    catalogue: Catalogue, job: Job, task: Task, memory: Memory, patients: frozenset[str] | None = None
) -> LocalData:
    """Read a job's data set, or the part of it that is of these patients.

    All samples of a patient are in one split, the same in every job, see `split`.

    Raises:
        DataError: the data set is not registered, or has no patient to train on.
    """
    dataset = job.task.dataset
    facts = catalogue.facts(dataset) if job.harmonise is not None else itertools.repeat(None)
    known = [
        (image, OTHER if fact is None else str(fact.info.get("vendor", OTHER)))
        for image, fact in zip(catalogue.images(dataset), facts, strict=job.harmonise is not None)
        if patients is None or image.patient in patients
    ]
    images = [image for image, _ in known]
    source = catalogue.source(dataset)
    left_out: Counter[str] = Counter(catalogue.summary(dataset).quarantined)
    parts: dict[str, list[Item]] = {split: [] for split in KNOWN}
    private = job.privacy.noised
    splits = catalogue.splits(dataset, job.training.validation_fraction)
    for image, vendor in known:
        target = target_of(image.label, job.task.classes)
        if target is None or (image.split and image.split not in KNOWN):
            left_out["label-outside-job" if target is None else "unknown-split"] += 1
            continue
        parts[splits[image.patient]].append(Item(image, target, vendor))
    harmonise = None
    if job.harmonise is not None:
        harmonise = harmoniser_of(job.harmonise, lambda: _readable(parts["train"], source))
    disk = memory.on_disk(job, catalogue.reading(dataset))
    train = TensorSet(parts["train"], source, task, memory.cache_bytes, harmonise, disk)
    # Plain statistics are divided by this bound, so that each stays within 0 .. 1. Private ones have no such limit: leaving out
    # the last patients would let one patient push out another.
    bound = len(images) if private else job.aggregation.max_patients
    left_out["beyond-validation-bound"] += max(0, len(parts["val"]) - bound)
    validation = TensorSet(parts["val"][:bound], source, task, memory.cache_bytes, harmonise, disk)
    for reason, count in (train.unreadable + validation.unreadable).items():
        left_out[reason] += count
    if len(train) == 0 and not private:
        raise DataError(
            f"The data set {job.task.dataset!r} has no sample that this job can train on.",
            remedy="Compare its labels with the job's classes: salus dataset show.",
        )
    return LocalData(train, validation, {reason: count for reason, count in left_out.items() if count})


def _readable(items: Sequence[Item], source: Source) -> list[Known]:
    """Return the training images that can be read, for ComBat; the others are counted when the tensors are made."""
    found: list[Known] = []
    for item in items:
        with contextlib.suppress(UnreadableImage):
            found.append((read_registered(source, item.image), item.vendor, item.target))
    return found
