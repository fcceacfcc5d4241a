"""Training data of a site that an audit puts together from patients of one or several sites."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from salus.client.data.tensors import TensorSet, Use
from salus.common.batch import Batch, joined


@dataclass(frozen=True)
class Patient:
    """A patient in the training data of a site.

    Args:
        data: of that site.
        rows: positions of the patient's samples.
    """

    data: TensorSet
    rows: tuple[int, ...]


def patients_of(data: TensorSet) -> list[Patient]:
    """Return all patients of a site's data."""
    return [Patient(data, tuple(rows)) for rows in data.by_patient()]


class Cohort(TensorSet):
    """The samples of some patients.

    Args:
        patients: at least one; a patient may occur several times and then counts as several.
    """

    def __init__(self, patients: Sequence[Patient]) -> None:
        # The attributes of one site's own set; what reads files stays there.
        self.__dict__.update(patients[0].data.__dict__)
        self._patients = patients
        self._rows = [(patient.data, row) for patient in patients for row in patient.rows]

    @property
    def in_memory(self) -> bool:
        """See `TensorSet.in_memory`."""
        return all(patient.data.in_memory for patient in self._patients)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def patients(self) -> int:
        """See `TensorSet.patients`."""
        return len(self._patients)

    def targets(self) -> torch.Tensor:
        """See `TensorSet.targets`."""
        return torch.cat([patient.data.targets()[list(patient.rows)] for patient in self._patients])

    def by_patient(self) -> list[list[int]]:
        """See `TensorSet.by_patient`."""
        found, first = [], 0
        for patient in self._patients:
            found.append(list(range(first, first + len(patient.rows))))
            first += len(patient.rows)
        return found

    def places(self, rows: torch.Tensor) -> torch.Tensor:
        """See `TensorSet.places`."""
        return torch.cat([data.places(torch.tensor([row])) for data, row in self._of(rows)])

    def parts(self, rows: torch.Tensor, most: int) -> Iterator[torch.Tensor]:
        """See `TensorSet.parts`; one by one where a site's samples differ in size."""
        alike = all(len(list(data.parts(torch.arange(len(data)), len(data)))) == 1 for data in self._sets())
        yield from torch.split(rows, most if alike else 1)

    def batch(self, rows: torch.Tensor, use: Use | None = None) -> Batch:
        """See `TensorSet.batch`."""
        pieces: list[Batch] = []
        waiting: list[int] = []
        last: TensorSet | None = None
        for data, row in self._of(rows):
            if last is not None and data is not last:
                pieces.append(last.batch(torch.tensor(waiting), use))
                waiting = []
            waiting.append(row)
            last = data
        if last is not None:
            pieces.append(last.batch(torch.tensor(waiting), use))
        return joined(pieces)

    def _of(self, rows: torch.Tensor) -> list[tuple[TensorSet, int]]:
        return [self._rows[int(row)] for row in rows]

    def _sets(self) -> list[TensorSet]:
        return list({id(patient.data): patient.data for patient in self._patients}.values())
