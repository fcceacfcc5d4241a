"""From one item of the catalogue to its tensors: read, transformed by the job's chain, and prepared by its task."""

import contextlib
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from salus.client.data.cache import ExampleCache
from salus.client.data.catalogue import CataloguedImage
from salus.client.data.examples import LABEL, annotations_of, example_of
from salus.client.data.records import ORDER, Sample
from salus.client.data.sources.base import Source
from salus.client.data.withdrawals import Gate
from salus.common.errors import UnreadableImage
from salus.common.examples import Array, Example
from salus.common.tasks.base import Task
from salus.common.tasks.several import several_of
from salus.common.transforms.base import Draw
from salus.common.transforms.chain import Chain, Known
from salus.common.vocabulary import OTHER

Fields = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Item:
    """One sample of the catalogue.

    Args:
        target: what its label means to the task, see `target_for`.
        groups: numbers of its subgroups, one for each attribute of the job's evaluation.
        order: rank of the image among those of its patient, if all have one; see `records.ORDER`.
        images: those that it is made of, in order, where the task takes several together; `image` is then the first of them.
    """

    image: CataloguedImage
    target: Array | int
    vendor: str = OTHER
    groups: tuple[int, ...] = ()
    order: float | None = None
    images: tuple["Item", ...] = ()

    @property
    def each(self) -> tuple["Item", ...]:
        """The single images that it is made of."""
        return self.images or (self,)


class Preparer:
    """Prepares the items of one source for one task.

    Args:
        chain: the task's transforms as they are at this site.
        disk: keeps the results of the chain's fixed part.
        gate: refuses patients who have withdrawn since the items were listed; None where they are used at once.
    """

    def __init__(
        self,
        source: Source,
        task: Task,
        chain: Chain | None = None,
        disk: ExampleCache | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._source, self.task, self._disk, self._gate = source, task, disk, gate
        self.chain = task.chain if chain is None else chain
        self._annotations = annotations_of(task)

    def gone(self) -> frozenset[str]:
        """Return the patients who have withdrawn by now."""
        return frozenset() if self._gate is None else self._gate.gone()

    def require(self, patients: Collection[str]) -> None:
        """Raise UnreadableImage if one of these patients has withdrawn."""
        if self._gate is not None:
            self._gate.require(patients)

    def without_disk(self) -> None:
        """Use the cache on disk no longer: it may hold samples of a patient who has withdrawn."""
        if self._disk is not None:
            self._disk.close()
            self._disk = None

    def prefix(self, item: Item) -> Example:
        """Return an item after the fixed part of the chain, from the disk if it is there, without its label.

        Raises:
            UnreadableImage, DataError: it cannot be used.
        """
        self.require([item.image.patient])
        if self._disk is None or not item.image.sha256:
            return self.chain.prefix(self.original(item))
        stamp = self._source.stamp(item.image.key)
        key = hashlib.sha256(f"{item.image.sha256}/{item.vendor}".encode()).digest()  # a scale may depend on the vendor
        found = self._disk.get(key, stamp)
        if found is None:
            found = self.chain.prefix(self.original(item))
            self._disk.put(key, stamp, found)
        return replace(found, facts={"vendor": item.vendor})

    def original(self, item: Item) -> Example:
        """Return an item as its source reads it now."""
        self.require([item.image.patient])
        sample = read_registered(self._source, item.image)
        settings, measured = self.task.settings, self.chain.measured
        return example_of(
            sample,
            settings,
            item.vendor,
            annotations=self._annotations,
            measured=measured,
            objects=getattr(self.task, "objects", ""),
        )

    def evaluated(self, item: Item, prefixes: Sequence[Example]) -> Fields:
        """Return the tensors of an item for evaluation, without the random steps of the chain.

        Args:
            prefixes: of each of its images.
        """
        return self._finished(item, [self.chain.evaluated(prefix) for prefix in prefixes])

    def drawn(self, item: Item, prefixes: Sequence[Example], draws: Sequence[Draw]) -> Fields:
        """Return the tensors of an item for training; each of its images has draws of its own."""
        pairs = zip(prefixes, draws, strict=True)
        return self._finished(item, [self.chain.rest(prefix, draw) for prefix, draw in pairs])

    def _finished(self, item: Item, examples: Sequence[Example]) -> Fields:
        each, several = [self.task.prepare(example) for example in examples], several_of(self.task)
        fields = each[0] if several is None else several.together(each)
        if LABEL in self.task.spec:
            fields[LABEL] = torch.as_tensor(item.target)
        missing = [name for name, field in self.task.spec.items() if name not in fields and not field.noise]
        if missing:
            raise UnreadableImage("not-annotated", f"it has no {missing[0]}")
        return fields


def order_of(info: Mapping[str, Any]) -> float | None:
    """Return an image's rank from its facts; None where its source knows no order."""
    found = info.get(ORDER)
    return float(found) if isinstance(found, int | float) else None


def target_for(task: Task, label: str) -> Array | int | None:
    """Return what the catalogue's label means to a task; 0 where the task has no use for it, None if it means nothing."""
    if LABEL not in task.spec:
        return 0
    return task.target(label)


def learned(preparer: Preparer, items: Sequence[Item]) -> Chain:
    """Return the chain as it is at this site, from these training items; those that cannot be read are counted later."""

    def known() -> list[Known]:
        found: list[Known] = []
        for item in items:
            with contextlib.suppress(UnreadableImage):
                found.append((preparer.original(item), int(item.target)))
        return found

    return preparer.chain.learned(known)


def read_registered(source: Source, image: CataloguedImage) -> Sample:
    """Return a sample as its source reads it now; raises UnreadableImage if it is gone or not the registered one."""
    sample = source.load(image.key)
    if sample.sha256 and sample.sha256 != image.sha256:
        raise UnreadableImage("changed", "the file is not the one that was registered")
    return sample
