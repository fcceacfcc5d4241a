"""A site's sums of rows by subgroup, for the evaluation of a model: exact with small groups hidden, or as one patient's part."""

from typing import Protocol

import numpy as np
import torch

from salus.common.subgroups.base import Groups
from salus.common.subgroups.exact import GroupTotals
from salus.common.sums.base import small_cells


class Grouped(Protocol):
    """Samples of patients whose groups are known, such as a `TensorSet`."""

    def by_patient(self) -> list[list[int]]:
        """Return the positions of each patient's samples."""

    def places(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the groups of the samples at these positions, int64 ``[rows, attributes]``."""


class GroupSums:
    """Sums rows into groups, batch by batch.

    Args:
        size: length of a row.

    Attributes:
        rows: the sums, float64 ``[groups, row]``.
    """

    def __init__(self, groups: Groups, size: int) -> None:
        self._groups = groups
        self.rows = torch.zeros(groups.count, size, dtype=torch.float64)

    def add(self, rows: torch.Tensor, places: torch.Tensor) -> None:
        """Add rows.

        Args:
            rows: float64 ``[items, row]``.
            places: number of each item's group of each attribute, ``[items, attributes]``.
        """
        for attribute in places.unbind(dim=1):
            self.rows.index_add_(0, attribute, rows)

    def totals(self, data: Grouped, least: int) -> GroupTotals:
        """Return the sums of `data`, all of which was added, with small groups set to zero.

        Args:
            least: fewest patients in a group that is not hidden.

        Guarantees: of each attribute, each group that is left, and all hidden ones together, are of at least `least` patients or
        of none, so a hidden group is not the difference of the total and the others either.
        """
        patients = data.by_patient()
        present = np.zeros((len(patients), self._groups.count), dtype=np.bool_)
        for number, images in enumerate(patients):
            present[number, data.places(torch.tensor(images)).flatten().numpy()] = True
        rows, counts = self.rows.numpy().copy(), present.sum(axis=0).astype(np.float64)
        for block in self._groups.blocks.values():
            small = small_cells(present[:, block], least)
            rows[block][small] = 0.0
            counts[block][small] = 0.0
        return GroupTotals(rows, counts, float(len(patients)))


def patient_vector(rows: torch.Tensor, places: torch.Tensor, groups: Groups) -> torch.Tensor:
    """Return what one patient adds to an evaluation with noise, float64 ``[(1 + groups) * row]``.

    Args:
        rows: of the patient's images, each of norm at most 1, float64 ``[images, row]``.
        places: their groups, ``[images, attributes]``.

    Guarantees: its Euclidean norm is at most 1, whatever `rows` are. It is ``[mean row, mean row within each group]``, where
    images of other groups count as zero, divided by `Groups.norm_l2`.
    """
    mean = torch.nan_to_num(rows.mean(dim=0), 0.0, 0.0, 0.0)
    if groups.count:
        sums = GroupSums(groups, rows.shape[1])
        sums.add(torch.nan_to_num(rows, 0.0, 0.0, 0.0) / len(rows), places)
        mean = torch.cat([mean, sums.rows.flatten()]) / groups.norm_l2
    return mean / max(1.0, float(mean.norm()))
