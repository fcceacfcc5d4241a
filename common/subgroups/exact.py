"""Subgroups in a vector without noise: ``[rows of each group / bound, number of patients, patients of each group]``."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from salus.common.subgroups.base import Groups
from salus.common.sums.exact import exact_size, from_limbs, to_limbs

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GroupTotals:
    """Sums over one site, or over all.

    Args:
        rows: summed rows of a task, ``[groups, row]``.
        patients: number of patients in each group, ``[groups]``.
        everyone: number of patients, those in hidden groups included.
    """

    rows: Float64Array
    patients: Float64Array
    everyone: float


def grouped_size(groups: Groups, row: int) -> int:
    """Return the number of entries for all groups; 0 without groups.

    Args:
        row: length of a task's row.
    """
    return groups.count * row + exact_size(1 + groups.count) if groups.count else 0


def nobody(groups: Groups, row: int) -> GroupTotals:
    """Return the sums of a site without patients."""
    return GroupTotals(np.zeros((groups.count, row)), np.zeros(groups.count), 0.0)


def to_entries(totals: GroupTotals, bound: float) -> Float64Array:
    """Return the entries of one site, each from 0 to 1; none without groups.

    Args:
        bound: public, at least the number of images at the site.
    """
    if not len(totals.patients):
        return np.zeros(0)
    counts = to_limbs(np.concatenate([[totals.everyone], totals.patients]))
    return np.concatenate([totals.rows.reshape(-1) / bound, counts])


def from_entries(entries: Float64Array, groups: Groups, row: int, bound: float) -> GroupTotals:
    """Return the sums over sites from summed entries."""
    rows, counts = np.split(entries, [groups.count * row])
    everyone, *patients = np.rint(from_limbs(counts))
    return GroupTotals(rows.reshape(groups.count, row) * bound, np.array(patients), float(everyone))
