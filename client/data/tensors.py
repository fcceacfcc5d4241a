"""Prepared samples of one job: in memory up to a limit, then on disk, otherwise read again from the source."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from salus.client.data.preparing import Fields, Item, Preparer
from salus.client.data.withdrawals import REASON as WITHDRAWN
from salus.common.batch import Batch, stacked
from salus.common.errors import DataError, UnreadableImage
from salus.common.examples import Example
from salus.common.progress import SILENT, Report
from salus.common.transforms.streams import stream


@dataclass(frozen=True)
class Use:
    """One pass over the training images, in which every random step is drawn anew.

    Args:
        secret: of the site; whoever knows it can repeat the draws.
        turn: number of the pass.
    """

    secret: bytes
    turn: int = 0


class TensorSet:
    """Prepared samples as named tensors; in memory up to a limit, then on disk, otherwise read again from the source.

    Args:
        items: samples that were readable when the set was made.
        cache_bytes: of memory; what is random about a sample is drawn for each use and not kept.
        training: whether the chain's random steps are run.
        report: called with the share of the items that is read.

    Attributes:
        lost: samples that could not be read when they were last asked for, by key, with the reason.
    """

    def __init__(
        self,
        items: Sequence[Item],
        preparer: Preparer,
        cache_bytes: int,
        *,
        training: bool = False,
        report: Report = SILENT,
    ) -> None:
        self._preparer = preparer
        self.random = training and preparer.chain.random
        self.copies = preparer.task.settings.copies if self.random else 1
        self.unreadable: Counter[str] = Counter()
        self.lost: dict[str, str] = {}
        self._items: list[Item] = []
        self._examples: dict[int, Sequence[Example]] = {}
        kept: list[Fields] = []
        self._shapes: list[tuple[torch.Size, ...]] = []
        left = cache_bytes
        for number, item in enumerate(map(self._readable, items), start=1):
            report(number / len(items))
            if item is None:
                continue
            try:
                examples = self._prefixes(item)
                fields = (
                    self._drawn(item, examples, Use(b"", 0), 0) if self.random else preparer.evaluated(item, examples)
                )
            except Exception as problem:
                # A source's failure on one sample must not exclude all others.
                self.unreadable[_reason(problem)] += 1
                continue
            self._shapes.append(tuple(tensor.shape for tensor in fields.values()))
            if self.random:
                left -= sum(array.nbytes for example in examples for array in example.fields.values())
                if left >= 0:
                    self._examples[len(self._items)] = examples
            elif left >= 0:
                left -= sum(tensor.nbytes for tensor in fields.values())
                kept.append(fields)
            self._items.append(item)
        ragged = len(set(self._shapes)) > 1
        complete = left >= 0 and not self.random
        self._whole = stacked(kept) if complete and kept and not ragged else None
        self._each = kept if complete and ragged else None

    def _readable(self, item: Item) -> Item | None:
        """Return an item with those of its images that can be read; None without one."""
        if not item.images:
            return item
        kept = []
        for one in item.images:
            try:
                self._prefix(one)
            except Exception as problem:
                self.unreadable[_reason(problem)] += 1
            else:
                kept.append(one)
        return replace(item, image=kept[0].image, images=tuple(kept)) if kept else None

    def _prefixes(self, item: Item) -> list[Example]:
        return [self._prefix(one) for one in item.each]

    def _prefix(self, one: Item) -> Example:
        try:
            example = self._preparer.prefix(one)
        except UnreadableImage as problem:
            if problem.reason != WITHDRAWN:
                self.lost[one.image.key] = problem.reason
            raise
        self.lost.pop(one.image.key, None)
        return example

    def _drawn(self, item: Item, examples: Sequence[Example], use: Use, copy: int) -> Fields:
        draws = [stream(use.secret, one.image.key, use.turn, copy) for one in item.each]
        return self._preparer.drawn(item, examples, draws)

    @property
    def in_memory(self) -> bool:
        """Whether a batch is ready without reading or transforming anything."""
        return self._whole is not None or self._each is not None or not self._items

    def __len__(self) -> int:
        return len(self._items)

    @property
    def patients(self) -> int:
        """Number of different patients."""
        return len(self.pseudonyms)

    @property
    def pseudonyms(self) -> set[str]:
        """The patients."""
        return {item.image.patient for item in self._items}

    def without_withdrawn(self) -> bool:
        """Drop the items of patients who have withdrawn, also from memory; return False where the chain has learned from them.

        The other items keep their order, and nothing is read: a step after a withdrawal takes as long as one before.
        """
        gone = self._preparer.gone()
        kept = [place for place, item in enumerate(self._items) if item.image.patient not in gone]
        if len(kept) == len(self._items):
            return True
        if self._preparer.chain.key() is None:
            return False
        self._preparer.without_disk()
        self._items = [self._items[place] for place in kept]
        self._shapes = [self._shapes[place] for place in kept]
        self._examples = {now: self._examples[old] for now, old in enumerate(kept) if old in self._examples}
        self._whole = None if self._whole is None else self._whole.rows(torch.tensor(kept, dtype=torch.int64))
        self._each = None if self._each is None else [self._each[place] for place in kept]
        return True

    def targets(self) -> torch.Tensor:
        """Return what each sample's label means to the task, int64 ``[samples, ...]``; at least one sample."""
        return torch.stack([torch.as_tensor(item.target) for item in self._items])

    def by_patient(self) -> list[list[int]]:
        """Return the positions of each patient's samples, patients in the order of their pseudonyms."""
        places: dict[str, list[int]] = {}
        for place, item in enumerate(self._items):
            places.setdefault(item.image.patient, []).append(place)
        return [places[patient] for patient in sorted(places)]

    def places(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the subgroups of the samples at these positions, int64 ``[rows, attributes]``."""
        found = [self._items[int(row)].groups for row in rows]
        attributes = len(self._items[0].groups) if self._items else 0
        return torch.tensor(found, dtype=torch.int64).reshape(len(found), attributes)

    def parts(self, rows: torch.Tensor, most: int) -> Iterator[torch.Tensor]:
        """Yield positions in groups of at most `most` that fit one batch: one by one where these samples differ in size.

        Other samples do not count: a library computes batches of other sizes with other last digits, and one patient's image of
        another size must not change those of all the others.
        """
        ragged = len({self._shapes[int(row)] for row in rows}) > 1
        yield from torch.split(rows, 1 if ragged else most)

    def require(self, rows: torch.Tensor) -> None:
        """Raise UnreadableImage if the patient of one of these positions has withdrawn."""
        if self._preparer.gone():
            self._preparer.require({self._items[int(row)].image.patient for row in rows})

    def batch(self, rows: torch.Tensor, use: Use | None = None) -> Batch:
        """Return the items at these positions; of a random chain, the job's number of copies of each, one after the other.

        Args:
            use: the pass; needed where the chain is random.

        Raises:
            UnreadableImage: an item's patient has withdrawn; this is the door of everything that is kept in memory.
        """
        self.require(rows)
        if self._whole is not None:
            return self._whole.rows(rows)
        if self._each is not None:
            return stacked([self._each[int(row)] for row in rows])
        found: list[Fields] = []
        for place in (int(row) for row in rows):
            item = self._items[place]
            examples = self._examples.get(place) or self._prefixes(item)
            if not self.random:
                found.append(self._preparer.evaluated(item, examples))
                continue
            assert use is not None  # Safe because training alone asks for such sets, and always says which pass it is.
            found.extend(self._drawn(item, examples, use, copy) for copy in range(self.copies))
        return stacked(found)


def _reason(problem: Exception) -> str:
    """Return why a sample is left out, for counting."""
    if isinstance(problem, UnreadableImage):
        return problem.reason
    return "does-not-fit-job" if isinstance(problem, DataError) else type(problem).__name__
