"""A site's training data together with canaries, each a patient of its own."""

import itertools
from collections.abc import Sequence

import torch

from salus.client.data.tensors import TensorSet, Use
from salus.common.batch import Batch, joined


class WithCanaries(TensorSet):
    """The samples of a site, then those of the canaries.

    Args:
        own: the site's samples.
        canaries: one item for each canary that takes part, with the fields of the site's samples.
        images: how many images each canary has, all the same; so a patient who counts once for each image stands out.
        alone: whether the site's own samples are left out.
    """

    def __init__(self, own: TensorSet, canaries: Batch, images: int, *, alone: bool = False) -> None:
        # The attributes of the site's own set; what reads files stays there.
        self.__dict__.update(own.__dict__)
        self._own, self._canaries, self._images = own, canaries, images
        self._first = 0 if alone else len(own)

    @property
    def in_memory(self) -> bool:
        """See `TensorSet.in_memory`."""
        return self._own.in_memory

    def __len__(self) -> int:
        return self._first + len(self._canaries) * self._images

    @property
    def patients(self) -> int:
        """See `TensorSet.patients`."""
        return (self._own.patients if self._first else 0) + len(self._canaries)

    def targets(self) -> torch.Tensor:
        """See `TensorSet.targets`; a canary without a label counts as 0."""
        labels = self._canaries["label"] if "label" in self._canaries else torch.zeros(len(self._canaries)).long()
        mine = labels.repeat_interleave(self._images, dim=0)
        return torch.cat([self._own.targets(), mine]) if self._first else mine

    def by_patient(self) -> list[list[int]]:
        """See `TensorSet.by_patient`."""
        own = self._own.by_patient() if self._first else []
        starts = range(self._first, len(self), self._images)
        return own + [list(range(start, start + self._images)) for start in starts]

    def places(self, rows: torch.Tensor) -> torch.Tensor:
        """See `TensorSet.places`; a canary is in no subgroup, and no one evaluates the training data."""
        return self._own.places(rows[rows < self._first])

    def parts(self, rows: torch.Tensor, most: int) -> Sequence[torch.Tensor]:  # type: ignore[override]
        """See `TensorSet.parts`."""
        return torch.split(rows, most)

    def batch(self, rows: torch.Tensor, use: Use | None = None) -> Batch:
        """See `TensorSet.batch`; the copies of a canary are all the same."""
        pieces: list[Batch] = []
        where = rows < self._first
        for mine in _runs(where):
            part = rows[mine]
            if bool(where[mine.start]):
                pieces.append(self._own.batch(part, use))
            else:
                numbers = torch.div(part - self._first, self._images, rounding_mode="floor")
                pieces.append(self._canaries.rows(numbers.repeat_interleave(self.copies)))
        return joined(pieces)


def _runs(flags: torch.Tensor) -> list[slice]:
    """Return the stretches of equal flags, in order."""
    changes = (torch.nonzero(flags[1:] != flags[:-1]).flatten() + 1).tolist()
    edges = [0, *changes, len(flags)]
    return [slice(first, last) for first, last in itertools.pairwise(edges) if last > first]
